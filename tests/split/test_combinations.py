"""Options together: least streams with loosened bounds, batches, units, norms."""

from copy import deepcopy
from itertools import count, product

import effort
import pytest
import torch
from literal_split import Literal
from small_pairs import randomise
from test_learned_bounds import loosened
from torch import nn

from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.nn import BackwardConfig
from dmn.rules import scaled
from dmn.split import signal, split

TARGET = torch.tensor([2, 0, 1])


class Branches(nn.Module):
    """One branch ends in ReLU, after which there is no n, and the other does not."""

    def __init__(self, join):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()
        self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4, eps=0.1)
        self.last, self.fc = nn.Conv2d(8 if join == "cat" else 4, 4, 3), nn.Linear(4, 3)
        self.join = join

    def forward(self, x):
        x = self.relu(self.stem(x))
        left, right = self.relu(self.left(x)), self.norm(self.right(x))
        x = torch.cat([left, right], 1) if self.join == "cat" else left + right
        return self.fc(self.relu(self.last(x)).mean((2, 3)))


def chain():
    return nn.Sequential(
        *(nn.ReLU(), nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, eps=0.1), nn.ReLU(), nn.Conv2d(5, 6, 3)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )


def pooled():
    """Overlapping windows, and an activation that is below 0 at 0."""
    return nn.Sequential(
        *(nn.Conv2d(2, 5, 3), nn.Hardtanh(-2.0, -0.1), nn.Conv2d(5, 5, 1), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(5, 6, 2), nn.GELU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(6, 3)),
    )


def convolutional():
    """What is averaged over the image are the logits themselves."""
    layers = (nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 3), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten())


NETWORKS = {
    "convolutional": convolutional,
    "chain": chain,
    "pooled": pooled,
    "cat": lambda: Branches("cat"),
    "sum": lambda: Branches("sum"),
}


def network(name):
    torch.manual_seed(0)
    return randomise(NETWORKS[name]()).double().eval()


def images():
    return torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(1)).double()


def assert_close(one, other, rtol=1e-8):
    assert float((one - other).detach().abs().max()) <= rtol * float(other.detach().abs().max())


@pytest.mark.parametrize("theta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("loose", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_that_of_the_definition(name, loose, theta):
    """In particular of least streams, where only what n is not zero of has a part of its own."""
    model, x = network(name), images()
    ours = (loosened if loose else split)(model, x, theta=theta)
    literal = Literal(model, x, theta=theta)
    expected = literal.relevance(TARGET, 1e-6)
    ways = product([("g", "h"), ("g",), ("h",)], [ours.layers, *([each] for each in ours.layers)])
    for sides, layers in ways:  # one side alone, and one layer alone, take ways of their own
        read = ours.read(
            x, TARGET, layers, BackwardConfig("relevance", alpha=0.0, head_alpha=0.0), sides
        )
        for layer, side in product(layers, sides):
            p, n, delta_p, delta_n = read[layer][side]
            mine = torch.stack([p * delta_p, n * delta_n])
            assert_close(mine, torch.stack(expected[layer]["gh".index(side) * 2 :][:2]))


OPTIONS = [
    *({"alpha": alpha} for alpha in (0.0, 0.3, 0.5, "balanced")),
    {"alpha": "balanced", "rho": 0.3},
    {"contrast": True},
    {"contrast": True, "alpha": "balanced"},
    {"absolute": True, "part": "n"},
    {"theta": 0.3, "threshold": 0.5},
    {"theta": 1.0, "pool": "convex"},
    {"alpha": {"relu": 0.4, "relu_1": 0.2}},
]


@pytest.mark.parametrize("stream", ["g", "h", "g-h"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("method", [SplitCAM, SplitGrad, SplitLRP])
def test_a_map_does_not_depend_on_its_neighbours(method, options, stream):
    if method is SplitLRP and "alpha" in options:
        options = {key: value for key, value in options.items() if key != "alpha"}
    ours, x = split(network("cat"), images()), images()
    x = x * torch.tensor([1.0, 30.0, 0.01]).view(3, 1, 1, 1)  # which a mean over all would mix
    for layer in ("input", "relu"):
        explainer = method(ours, layer, stream, **options)
        together = explainer(x, TARGET)
        for image, target, expected in zip(x, TARGET, together, strict=True):
            assert_close(explainer(image[None], int(target))[0], expected, 1e-6)


KEPT = [
    {},
    {"theta": 0.4},
    {"theta": 1.0},
    {"theta": 0.2, "threshold": 1.0},
    {"theta": 1.0, "pool": "convex"},
]


EXPONENTS = [(40, 0), (-9, 0), (25, -31, 7)]


@pytest.mark.parametrize("exponents", effort.slow_except({(25, -31, 7)}, EXPONENTS))
@pytest.mark.parametrize("options", KEPT, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_map_depends_on_the_units_of_its_streams(name, options, exponents, monkeypatch):
    """Streams are rescaled where they grow, which these do not: so that it is done all the same."""
    x, made = images(), set()
    inner = {"chain": "3", "pooled": "3", "convolutional": "1"}.get(name, "relu")

    def maps(ours):
        every = product((SplitCAM, SplitLRP, SplitGrad), ("input", inner), ("g", "h", "g-h"))
        made = [method(ours, layer, stream)(x, TARGET) for method, layer, stream in every]
        # sensitivities alone are right up to the power of two that p and n are given in
        return [*made[:12], *(each / each.abs().max() for each in made[12:])]

    ours = split(network(name), x, **options)
    expected, ends, sizes = maps(ours), (ours.g(x), ours.h(x)), ours.magnitudes(x)
    turn = count()

    def rescaling(tensors, exponent, dtype=None):
        made.add(exponent)
        return exponent + exponents[next(turn) % len(exponents)]

    monkeypatch.setattr(scaled, "rescaling", rescaling)
    monkeypatch.setattr(signal, "rescaling", rescaling)
    for one, other in zip(maps(ours), expected, strict=True):
        assert_close(one, other, 1e-6)
    assert len(made) > 1  # units other than 1 were met
    for one, other in zip((ours.g(x), ours.h(x)), ends, strict=True):
        assert_close(one, other)
    for layer, size in ours.magnitudes(x).items():
        assert_close(size.to(0).tensor, sizes[layer].to(0).tensor)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.1])
def test_norms_of_any_eps_are_those_of_the_definition(eps):
    model, x = network("cat"), images()
    model.norm.eps = eps
    ours, literal = split(model, x, theta=1.0), Literal(deepcopy(model), x)
    assert_close(ours.g(x), literal.p)
    assert_close(ours.h(x), literal.n)
    expected = literal.sensitivities(TARGET)
    read = ours.read(x, TARGET, ours.layers)
    for layer in ours.layers:
        g, h = read[layer]["g"], read[layer]["h"]
        assert_close(torch.stack([*g[2:], *h[2:]]), torch.stack(expected[layer]))
