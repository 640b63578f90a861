"""LRPGamma whose gamma changes with depth, against the rule written out, matrix by matrix."""

import pytest
import torch
from rival_networks import NETWORKS, ResNet, made
from torch import nn

from dmn.baselines import LRPEpsilon, LRPGamma
from dmn.errors import OptionError
from dmn.explain.read import eval_mode_with_grad

TARGET = torch.tensor([0, 1, 2, 1, 0])


def network(seed, convolutions):
    """Make a random chain whose inputs have both signs, as LeakyReLU lets them through."""
    torch.manual_seed(seed)
    layers = []
    for i in range(convolutions):
        layers += [nn.Conv2d(3 if i else 1, 3, 3, padding=1), nn.LeakyReLU(0.3)]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 3)).double()


def matrix(layer, shape):
    basis = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
    bias = layer(torch.zeros_like(basis[:1])).flatten()
    return layer(basis).flatten(1) - bias, bias


def stable(z):
    return z + 1e-6 * torch.where(z >= 0, 1.0, -1.0)


def generalised(a, w, b, r, gamma):
    """Add gamma times the contributions of the unit's sign, of inputs of either sign."""
    z = (a[:, None] * w).sum(0) + b
    parts = a[:, None] * w
    up = parts + gamma * parts.clamp(min=0)
    down = parts + gamma * parts.clamp(max=0)
    up_share = up / stable(up.sum(0) + b + gamma * b.clamp(min=0))
    down_share = down / stable(down.sum(0) + b + gamma * b.clamp(max=0))
    return (up_share * (r * (z > 0)) + down_share * (r * (z < 0))).sum(1)


def literal(model, image, target, gammas):
    """Return the relevance of one image, from the logit back; one gamma for each convolution."""
    inputs, x = [], image[None]
    for layer in model:
        inputs.append(x)
        x = layer(x)
    r = torch.zeros_like(x).flatten()
    r[target] = x[0, target]
    gammas = list(gammas)
    for layer, a in zip(reversed(model), reversed(inputs), strict=True):
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.AvgPool2d):
            continue  # activations pass relevance on
        gamma = gammas.pop() if isinstance(layer, nn.Conv2d) else 0.0
        r = generalised(a.flatten(), *matrix(layer, a.shape[1:]), r, gamma)
    return r.view(image.shape)


def relevance(explainer, x):
    """Return relevance of each channel in float64, before it is rounded to float32."""
    with eval_mode_with_grad(explainer.network):
        return explainer.attribute(x.clone().requires_grad_(), TARGET).detach()


@pytest.mark.parametrize("bounds", [(0.5, 0.0), (1.0, 0.1), [0.0, 2.0], (3, 0.25)])
@pytest.mark.parametrize("convolutions", [1, 2, 4])
@torch.no_grad()
def test_by_definition(convolutions, bounds, images):
    model, x = network(convolutions, convolutions), images - 0.4
    image, last = bounds
    steps = max(convolutions - 1, 1)
    gammas = [image + (last - image) * i / steps for i in range(convolutions)]
    ours = relevance(LRPGamma(model, gamma=bounds), x)
    for picture, target, found in zip(x, TARGET, ours, strict=True):
        expected = literal(model, picture, target, gammas)
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_bounds_are_one_number(name, images):
    model = NETWORKS[name]()
    for gamma in (0.0, 0.25, 1):
        one = LRPGamma(model, gamma=gamma)(images, TARGET)
        assert torch.equal(LRPGamma(model, gamma=[gamma, gamma])(images, TARGET), one)
        near = LRPGamma(model, gamma=(gamma, gamma + 1e-9))(images, TARGET)  # rule by rule
        assert torch.allclose(near, one, rtol=1e-4, atol=1e-6 * float(one.abs().max()))
    other = LRPGamma(model, gamma=(2.0, 0.0))(images, TARGET)
    assert not torch.allclose(other, one, rtol=0.05)
    assert not torch.allclose(other, LRPEpsilon(model)(images, TARGET), rtol=0.05)


def test_depth_is_counted_along_the_longest_path():
    """The shortcut of a residual block lies as deep as the first convolution beside it."""
    explainer = LRPGamma(made(ResNet()), gamma=(1.0, 0.0))
    names = ("conv", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2")
    rules = {
        name: explainer.composite.module_map({}, name, module)
        for name, module in explainer.network.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    weight = torch.ones(1)
    found = {
        name: float(rule.param_modifiers[0].modifier(weight, "weight")) - 1
        for name, rule in rules.items()
    }
    expected = {name: 1 - i / 4 for i, name in enumerate(names)} | {"block2.downsample.0": 0.25}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong",
    [
        *([], [0.5], (0.5, 0.25, 0.0), [[0.5, 0.0]], "0.5", "gamma", None, True),
        *((0.5, None), (0.5, "0"), (True, 0.5), -0.1, (0.5, -0.1), float("nan"), (float("inf"), 1)),
    ],
)
def test_what_is_no_gamma_is_refused(wrong):
    with pytest.raises(OptionError, match="give a number from 0 on, or two of them"):
        LRPGamma(network(0, 1), gamma=wrong)


def test_a_network_that_needs_an_example_gets_its_gammas_with_the_first_images(images):
    class Flexible(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(c, 3, 3, padding=1) for c in (1, 3))
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            x = self.second(self.first(x).relu()).relu()
            if x.shape[-1] > 4:
                x = nn.functional.avg_pool2d(x, 2)
            return self.head(x.mean((2, 3)))

    model = Flexible().double().eval()
    late = LRPGamma(model, gamma=(1.0, 0.0))
    assert not late.ready
    assert not torch.allclose(late(images, TARGET), LRPGamma(model, gamma=1.0)(images, TARGET))
