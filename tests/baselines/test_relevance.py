"""What zennit computes, against its rules written out, matrix by matrix."""

import pytest
import torch
from rival_networks import NETWORKS, ResNet, made, vgg
from small_pairs import tiny_pair
from torch import nn

from dmn.baselines import (
    ExcitationBackprop,
    InputXGradient,
    LRPEpsilon,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonPlus,
    LRPGamma,
)
from dmn.canonize import canonize, hookable

TARGET = torch.tensor([0, 1, 2, 1, 0])
LRP = [LRPEpsilon, LRPGamma, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, ExcitationBackprop]
EVERY = pytest.mark.parametrize("method", LRP)


def stable(z):
    return z + 1e-6 * torch.where(z >= 0, 1.0, -1.0)


def shares(a, w, b, r):
    """Hand relevance r (k) of z = a w + b to a (j), in proportion to a_j w_jk."""
    return ((a[:, None] * w) / stable((a[:, None] * w).sum(0) + b) * r).sum(1)


def plus(a, w, b, r):
    both = (a[:, None] * w).clamp(min=0)
    return (both / stable(both.sum(0) + b.clamp(min=0)) * r).sum(1)


def minus(a, w, b, r):
    return plus(a, -w, -b, r)


def gamma(a, w, b, r, gamma=0.4):
    """For a >= 0, as written by Andeol et al.: favour weights of the sign that the unit has."""
    z = a @ w + b
    up = shares(a, w + gamma * w.clamp(min=0), b + gamma * b.clamp(min=0), r * (z > 0))
    down = shares(a, w + gamma * w.clamp(max=0), b + gamma * b.clamp(max=0), r * (z < 0))
    return up + down


RULES = {  # of convolutions, and of linear layers
    LRPEpsilon: (shares, shares),
    LRPGamma: (gamma, shares),
    LRPEpsilonPlus: (plus, shares),
    LRPEpsilonAlpha2Beta1: (lambda *a: 2 * plus(*a) - minus(*a), shares),
    ExcitationBackprop: (plus, plus),
}


def affine(layer, shape):
    """Return a layer as the matrix and bias of z = a w + b."""
    basis = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
    bias = layer(torch.zeros_like(basis[:1])).flatten()
    return layer(basis).flatten(1) - bias, bias


def propagated(model, x, seed, method, biased):
    """Return relevance of one image, layer by layer back from the seed at the logits."""
    inputs = []
    for layer in model:
        inputs.append(x)
        x = layer(x)
    r = seed(x.flatten()) if callable(seed) else seed
    for layer, a in zip(reversed(model), reversed(inputs), strict=True):
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.AvgPool2d)):
            w, b = affine(layer, a.shape[1:])
            kinds = [nn.Conv2d, nn.Linear]
            rule = dict(zip(kinds, RULES[method], strict=True)).get(type(layer), shares)
            r = rule(a.flatten(), w, b if biased else 0 * b, r)
        elif isinstance(layer, nn.MaxPool2d):
            kept = a.clone().requires_grad_()
            (r,) = torch.autograd.grad(layer(kept).flatten(), kept, r)
            r = r.flatten()
    return r.view(8, 8)


def sequence():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(4, 5, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)),
    ).double()


CASES = [(method, biased) for method in LRP for biased in (True, False)]
CASES.remove((LRPGamma, False))  # zennit takes the unit's sign with the bias, its shares without


def options(method):
    return {"gamma": 0.4} if method is LRPGamma else {}


@pytest.mark.parametrize(("method", "biased"), CASES)
def test_by_definition(method, biased, images):
    model = sequence()
    ours = method(model, **options(method), zero_params=None if biased else "bias")(images, TARGET)
    assert ours.abs().amax((1, 2, 3)).gt(0).sum() > 2
    starts_at_one = method is ExcitationBackprop
    for image, target, relevance in zip(images, TARGET, ours, strict=True):
        seed = torch.eye(3, dtype=torch.float64)[target]
        start = seed if starts_at_one else lambda logits, seed=seed: logits * seed
        expected = propagated(model, image[None], start, method, biased).detach()
        atol = 1e-5 * float(expected.abs().max())
        assert torch.allclose(relevance[0].double(), expected, rtol=1e-4, atol=atol)


@EVERY
def test_contrast_by_definition(method, images):
    model = sequence()
    ours = method(model, **options(method), contrast=True)(images, TARGET)
    for image, target, relevance in zip(images, TARGET, ours, strict=True):
        every = []
        for seed in (torch.eye(3, dtype=torch.float64)[target], torch.full((3,), 1 / 3)):
            one = method is ExcitationBackprop
            start = seed if one else lambda logits, seed=seed: logits * seed
            r = propagated(model, image[None], start.double() if one else start, method, True)
            every.append(r.detach() / r.detach().abs().sum().clamp(min=1e-12))
        assert torch.allclose(relevance[0].double(), every[0] - every[1], rtol=1e-3, atol=1e-5)


class Residual(nn.Module):
    """No bias: sums, a difference, averages and the image's complement, as functions."""

    def __init__(self, sign):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.fc, self.sign = nn.Linear(4, 3, bias=False), sign

    def forward(self, x):
        x = self.conv1(torch.cat([x, 1 - x], 1)).relu_()
        inner = self.conv2(x)
        x = (inner + x if self.sign > 0 else -(inner - x)).relu()
        x = nn.functional.adaptive_avg_pool2d(x, 4) * 1
        return self.fc(x.mean((2, 3)) + nn.functional.avg_pool2d(x, 4).flatten(1))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", [LRPEpsilon, LRPEpsilonPlus, LRPGamma])
def test_relevance_is_conserved_without_biases(method, sign, images):
    """Through sums and differences too; a pixel gets its own part and its complement's."""
    model = Residual(sign).double()
    model.conv1.weight.data.abs_()
    total = method(model)(images, TARGET).double().sum((1, 2, 3))
    logits = model(images).gather(1, TARGET[:, None])[:, 0]
    assert logits.abs().min() > 1e-3
    assert torch.allclose(total, logits, rtol=1e-3)


def test_a_difference_network_conserves_relevance_if_biases_are_left_out(images):
    """Of plain inputs; the complement of a paired one loses what lies on its margin."""
    model = tiny_pair("plain", residual=True)
    logits = model(images).gather(1, TARGET[:, None])[:, 0]
    total = LRPEpsilon(model, zero_params="bias")(images, TARGET).double().sum((1, 2, 3))
    assert torch.allclose(total, logits, rtol=1e-3)
    absorbed = LRPEpsilon(model)(images, TARGET).double().sum((1, 2, 3))
    assert not torch.allclose(absorbed, logits, rtol=0.05)


@pytest.mark.parametrize("network", [vgg, ResNet])
def test_epsilon_of_a_canonized_network_is_input_times_gradient(network, images):
    model = made(network())
    expected = InputXGradient(model)(images, TARGET)
    ours = LRPEpsilon(model, 1e-12)(images, TARGET)
    assert torch.allclose(ours, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(LRPEpsilon(model, canonize=False)(images, TARGET), expected)


@pytest.mark.parametrize("name", ["vgg", "resnet"])
@EVERY
def test_canonization_is_all_that_differs(method, name, images):
    """Without it the maps differ; of a network canonized before, they do not."""
    model = NETWORKS[name]()
    maps = method(model)(images, 1)
    ready = canonize(model)
    for network in (ready, hookable(ready)):
        assert torch.equal(method(network, canonize=False)(images, 1), maps)
    assert not torch.allclose(method(model, canonize=False)(images, 1), maps)


class Averages(nn.Module):
    """The same averages as functions or as modules."""

    def __init__(self, functions):
        super().__init__()
        self.conv, self.fc, self.functions = nn.Conv2d(1, 4, 3), nn.Linear(4, 3), functions
        self.windows, self.cells = nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(3)
        self.whole = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.conv(x)
        if self.functions:
            x = nn.functional.adaptive_avg_pool2d(nn.functional.avg_pool2d(x, 2, stride=1), 3)
            return self.fc(torch.mean(x.mean(3), dim=2))
        return self.fc(self.whole(self.cells(self.windows(x))).flatten(1))


@EVERY
def test_averages_have_one_rule_however_they_are_written(method, images):
    models = [Averages(functions).double() for functions in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    one, two = (method(model)(images, TARGET) for model in models)
    assert one.abs().max() > 0
    assert torch.allclose(one, two, rtol=1e-2, atol=1e-3 * float(two.abs().max()))


def test_rewriting_changes_no_logit(images):
    for network in (*NETWORKS.values(), lambda: Residual(-1).double()):
        model = network()
        for canonized in (False, True):
            ours = LRPEpsilon(model, canonize=canonized).network
            assert torch.allclose(ours(images), model(images), rtol=1e-12, atol=1e-12)
