"""What captum computes, against definitions written out: loops, quadrature, autograd."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rival_networks import Guided, ResNet, made, vgg
from torch import nn

from dmn.baselines import (
    DeepLift,
    FeatureAblation,
    Gradient,
    GradientSHAP,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
)
from dmn.baselines.rewrite import WindowsApart
from dmn.errors import UnsupportedError

TARGET = torch.tensor([0, 1, 2, 1, 0])


class Contrasted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return torch.stack([logits[:, k] - logits.sum(1) / 3 for k in range(3)], 1)


def logit(model, x):
    return model(x).gather(1, TARGET[:, None])[:, 0]


def gradient(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(logit(model, x).sum(), x)[0]


def assert_close(maps, expected):
    expected = expected.detach().sum(1, keepdim=True)
    assert expected.abs().max() > 0
    assert torch.allclose(
        maps.double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max())
    )


def integrated(model, x):
    nodes, weights = np.polynomial.legendre.leggauss(6)
    points = zip((nodes + 1) / 2, weights / 2, strict=True)
    total = sum(w * gradient(model, 0.3 + share * (x - 0.3)) for share, w in points)
    return total * (x - 0.3)


def smooth(model, x):
    generator, total = torch.Generator().manual_seed(7), 0
    spread = torch.stack([0.2 * (each.max() - each.min()) for each in x]).view(-1, 1, 1, 1)
    for _ in range(4):
        total = total + gradient(model, x + spread * torch.randn(1, 8, 8, generator=generator))
    return total / 4


def expected_gradients(model, x):
    generator, total = torch.Generator().manual_seed(0), 0
    spread = torch.stack([0.2 * (each.max() - each.min()) for each in x]).view(-1, 1, 1, 1)
    for _ in range(4):
        way = x + spread * torch.randn(1, 8, 8, generator=generator) - 0.3
        point = 0.3 + torch.rand((), generator=generator) * way
        total = total + gradient(model, point) * way
    return total / 4


def occluded(model, x):
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    starts = [0, 2, 4, 6]  # windows of 3, two pixels apart; the last is cut by the border
    for i in starts:
        for j in starts:
            blank = x.clone()
            blank[..., i : i + 3, j : j + 3] = 0.3
            loss = logit(model, x) - logit(model, blank)
            total[..., i : i + 3, j : j + 3] += loss.view(-1, 1, 1, 1)
            count[..., i : i + 3, j : j + 3] += 1
    return total / count


def ablated(model, x):
    result = torch.zeros_like(x)
    cells = [(0, 3), (3, 6), (6, 8)]
    for top, bottom in cells:
        for left, right in cells:
            blank = x.clone()
            blank[..., top:bottom, left:right] = 0.3
            loss = logit(model, x) - logit(model, blank)
            result[..., top:bottom, left:right] = loss.view(-1, 1, 1, 1)
    return result


DEFINITIONS = {
    "gradient": (Gradient, {}, gradient),
    "product": (InputXGradient, {}, lambda model, x: gradient(model, x) * x),
    "integral": (IntegratedGradients, {"steps": 6, "baseline": 0.3, "batch": 12}, integrated),
    "smooth": (SmoothGrad, {"samples": 4, "noise": 0.2, "seed": 7}, smooth),
    "shap": (GradientSHAP, {"samples": 4, "noise": 0.2, "baseline": 0.3}, expected_gradients),
    "occlusion": (Occlusion, {"window": 0.35, "stride": 0.7, "baseline": 0.3}, occluded),
    "ablation": (FeatureAblation, {"cells": 3, "baseline": 0.3, "batch": 7}, ablated),
}


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_by_definition(name, contrast, images):
    method, options, definition = DEFINITIONS[name]
    model = made(ResNet())
    explained = Contrasted(model) if contrast else model
    maps = method(model, **options, contrast=contrast)(images, TARGET)
    assert_close(maps, definition(explained, images))


@pytest.mark.parametrize("method", [InputXGradient, IntegratedGradients, Occlusion, DeepLift])
def test_colours_are_summed(method):
    """Of a linear model each pixel has what its channels bring, each window what its pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 3, bias=False)).double()
    x = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    options = {"window": 0.25, "stride": 1.0} if method is Occlusion else {}
    assert_close(method(model, **options)(x, TARGET), model[1].weight[TARGET].view_as(x) * x)


def test_integrated_gradients_are_complete(images):
    model = made(vgg())
    total = IntegratedGradients(model, 200)(images, TARGET).double().sum((1, 2, 3))
    difference = logit(model, images) - logit(model, torch.zeros_like(images))
    assert difference.abs().max() > 1e-3
    assert (total - difference).abs().max() < 0.01 * difference.abs().max()


def preactivation(relu, conv1, conv2, head):
    """A block whose input is added, and guided, apart."""

    def forward(x):
        x = conv1(x)
        x = F.max_pool2d(relu(x), 2) + F.max_pool2d(x, 2)
        return head(conv2(relu(x)).mean((2, 3)))

    return forward


class Preactivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 2)
        self.head, self.relu = nn.Linear(4, 3), nn.ReLU()

    def forward(self, x):
        return preactivation(self.relu, self.conv1, self.conv2, self.head)(x)


def test_guided_backprop_by_definition(images):
    """Of a tensor with other readers only what the ReLU hands back is guided."""
    model = made(Preactivation())
    guided = preactivation(Guided.apply, model.conv1, model.conv2, model.head)
    maps = GuidedBackprop(model)(images, TARGET)
    assert_close(maps, gradient(guided, images))
    assert not torch.allclose(maps.double(), gradient(model, images))


class Branching(nn.Module):
    """A tensor that both a ReLU and a sum take, and every kind of pooling."""

    def __init__(self, pool):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu, self.pool = nn.BatchNorm2d(4), nn.ReLU(inplace=True), pool
        self.head = nn.LazyLinear(3, dtype=torch.float64)

    def forward(self, x):
        x = self.norm(self.conv1(x))
        x = x + self.pool(self.relu(x.clone())).mean((2, 3), keepdim=True)
        x = self.pool(self.conv2(x) + F.relu(x))
        return self.head(x.flatten(1))


POOLS = {
    "apart": nn.MaxPool2d(2),
    "overlapping": nn.MaxPool2d(3, 2, 1),
    "ceiling": nn.MaxPool2d(3, 2, ceil_mode=True),
    "oblong": nn.MaxPool2d((3, 2), (1, 2), (1, 0), (2, 1)),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("contrast", [False, True])
def test_deep_lift_is_complete(pool, contrast, images):
    model = Branching(POOLS[pool]).double()
    model(images)
    made(model)
    explained = Contrasted(model) if contrast else model
    maps = DeepLift(model, 0.4, contrast=contrast)(images, TARGET).double()
    difference = logit(explained, images) - logit(explained, torch.full_like(images, 0.4))
    assert difference.abs().min() > 1e-3
    assert torch.allclose(maps.sum((1, 2, 3)), difference, rtol=1e-5, atol=1e-6)


POOLED = {
    "adaptive": nn.AdaptiveMaxPool2d(1),
    "over all": nn.LPPool2d(2, 8),
    "gelu": nn.Sequential(nn.GELU(), nn.AdaptiveAvgPool2d(1)),
}


@pytest.mark.parametrize("name", POOLED)
def test_deep_lift_refuses_what_it_has_no_rule_for(name):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), POOLED[name], nn.Flatten(), nn.Linear(4, 3)
    )
    with pytest.raises(UnsupportedError, match="cannot explain Sequential by DeepLift: 1 of"):
        DeepLift(model)


def test_windows_laid_apart_have_the_same_maxima():
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    for kernel, stride, padding, dilation, ceil in product(
        (2, (3, 2)), (1, 2, 3), (0, 1), (1, 2), (False, True)
    ):
        pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
        assert torch.equal(WindowsApart(pool)(x), pool(x))


def test_deep_lift_by_definition(images):
    """The Rescale rule of one ReLU, written out."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    base = torch.full_like(images, 0.4)
    inside = model[1](images.flatten(1)), model[1](base.flatten(1))
    slope = (inside[0].relu() - inside[1].relu()) / (inside[0] - inside[1])
    gradients = (model[3].weight[TARGET] * slope) @ model[1].weight
    assert_close(DeepLift(model, 0.4)(images, TARGET), gradients.view_as(images) * (images - base))


def test_the_size_of_a_pass_changes_nothing(images):
    model = made(vgg())
    for batch in (1, 1000):
        maps = IntegratedGradients(model, 5, batch=batch)(images, TARGET)
        assert torch.allclose(maps, IntegratedGradients(model, 5)(images, TARGET), atol=1e-6)
        maps = Occlusion(model, batch=batch)(images, TARGET)
        assert torch.allclose(maps, Occlusion(model)(images, TARGET), atol=1e-6)


def test_noise_is_seeded(images):
    model = made(vgg())
    one, two, other = (SmoothGrad(model, 2, seed=seed)(images, TARGET) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)
    assert math.isclose(
        SmoothGrad(model, 1, 0.0)(images, 1).sum(), Gradient(model)(images, 1).sum()
    )
