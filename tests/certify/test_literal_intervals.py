"""Bounds against interval arithmetic as it is defined: the ends of every single product, summed."""

import pytest
import torch
import torch.nn.functional as F
from boxed_networks import random_box
from small_pairs import randomise, tiny_pair
from torch import nn

from dmn.certify import bounds, worst_logits
from dmn.models import DifferenceOfMonotone, MonotoneConvNet, PlainCNN, Trunk
from dmn.models.monotone import ConvUnit
from dmn.nn import ConvexConcave, Inverted, MaxMinPool2d, Opposed, Paired, Plain


def product_sums(weight, low, high):
    """Sum over f of the least and the largest w_kf x_f, for x_f between the ends; (B, F, L)."""
    products = torch.stack([weight[:, :, None] * end[:, None] for end in (low, high)])
    return products.amin(0).sum(2), products.amax(0).sum(2)


def literal(module, low, high):
    """Return the ends of what a module makes of a box."""
    if isinstance(module, ConvUnit):
        ends = literal(module.norm, *literal(module.conv, low, high))
        if module.residual:
            ends = ends[0] + low, ends[1] + high
        return literal(module.activation, *ends)
    if isinstance(module, nn.Sequential):
        for child in module:
            low, high = literal(child, low, high)
        return low, high
    if isinstance(module, nn.Conv2d):
        patches = [F.unfold(x, module.kernel_size, 1, module.padding) for x in (low, high)]
        ends = product_sums(module.weight.flatten(1), *patches)
        sides = F.conv2d(low, module.weight, None, 1, module.padding).shape[2:]
        return tuple(end.unflatten(2, sides) for end in ends)
    if isinstance(module, nn.Linear):
        ends = product_sums(module.weight, low[..., None], high[..., None])
        return tuple(end[..., 0] + module.bias for end in ends)
    if isinstance(module, nn.BatchNorm2d):
        values = [
            F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias)
            for x in (low, high)
        ]
        return torch.minimum(*values), torch.maximum(*values)
    if isinstance(module, Paired | Opposed | Inverted | Plain):
        low, high = (F.pad(x, (module.margin,) * 4) for x in (low, high))
        offset = 0 if isinstance(module, Opposed) else 1
        opposite = offset - high, offset - low
        if isinstance(module, Plain):
            return low, high
        if isinstance(module, Inverted):
            return opposite
        return torch.cat([low, opposite[0]], 1), torch.cat([high, opposite[1]], 1)
    known = (nn.ReLU, ConvexConcave, nn.Hardtanh, nn.MaxPool2d, MaxMinPool2d, nn.Flatten)
    assert isinstance(module, (*known, nn.AdaptiveAvgPool2d, nn.Identity)), module
    return module(low), module(high)


def features(net, low, high):
    """Return each head with its sign, and the box of what it sees."""
    if not isinstance(net, DifferenceOfMonotone):
        yield 1, net[-1], literal(nn.Sequential(*list(net)[:-1]), low, high)
        return
    front = literal(net.front, low, high)
    for sign, side in ((1, net.g), (-1, net.h)):
        body = nn.Sequential(*list(side.net.children())[:-1])
        yield sign, side.net.head, literal(body, *literal(side.input, *front))


def fronted():
    nets = [MonotoneConvNet(8, (4,), 1, grid=2, num_classes=3) for _ in range(2)]
    front = Trunk(PlainCNN(1, (4,)), "stage1")
    return randomise(DifferenceOfMonotone(*nets, "opposed", front=front)).double().eval()


NETWORKS = {
    **{
        inputs: lambda inputs=inputs: tiny_pair(
            inputs, activation="convex_concave", residual=True, pool="max_min"
        )
        for inputs in ("inverted", "paired", "opposed", "plain")
    },
    "free weights": lambda: tiny_pair("paired", constraint="none", activation="saturating"),
    "fronted": fronted,
    "PlainCNN": lambda: randomise(PlainCNN(1, (4, 6), 1, 3)).double().eval(),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_bounds_are_those_of_literal_interval_arithmetic(name):
    net = NETWORKS[name]()
    low, high = random_box((1, 8, 8), 6)
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    lower, upper, worst = (torch.zeros(6, 3, dtype=torch.float64) for _ in range(3))
    for sign, head, ends in features(net, low, high):
        least, largest = literal(head, *ends)
        lower += sign * (least if sign > 0 else largest)
        upper += sign * (largest if sign > 0 else least)
        for image, own in enumerate(target):
            for k in range(3):
                weight = sign * (head.weight[k] - head.weight[own])
                worst[image, k] += sign * (head.bias[k] - head.bias[own])
                worst[image, k] += torch.maximum(*(weight * end[image] for end in ends)).sum()
    found = bounds(net, low, high)
    torch.testing.assert_close(found.lower, lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.upper, upper, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(worst_logits(net, low, high, target), worst, rtol=1e-9, atol=1e-9)
