"""Relevance through activations and norms, compiled and in pieces."""

from contextlib import suppress

import pytest
import torch
from torch import nn

import tests.effort as effort
from dmn.errors import UnsupportedError
from dmn.split import elementwise, split


@pytest.fixture
def model(images):
    """A network with an activation of each kind: of any sign, with a value at 0, by channel."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3),
        nn.GroupNorm(2, 6),
        nn.GELU(),
        nn.Conv2d(6, 4, 3),
        nn.PReLU(4),
        nn.Conv2d(4, 4, 3),
        nn.ReLU6(),
        nn.Flatten(),
        nn.LazyLinear(5),
        nn.Sigmoid(),
        nn.Linear(5, 3),
    ]
    network = nn.Sequential(*layers).eval()
    network(images)
    return split(network, images)


@pytest.fixture
def images():
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def calls(monkeypatch):
    """Compile nothing, and count what was to be compiled."""
    elementwise.compiled.cache_clear()
    calls = []

    def record(function, dynamic):
        def run(*tensors, **constants):
            calls.append(function.__name__)
            assert dynamic
            assert all(tensor.dim() == 1 for tensor in tensors)
            return function(*tensors, **constants)

        return run

    monkeypatch.setattr(torch, "compile", record)
    yield calls
    elementwise.compiled.cache_clear()


@pytest.mark.parametrize("options", [{}, {"theta": 0.5}, {"theta": 0.3, "threshold": 0.1}])
def test_what_is_compiled_gets_the_same_relevance(model, images, calls, options):
    before = model.explain(images, method="SplitLRP", **options)
    assert not calls
    model.compile()
    torch.testing.assert_close(model.explain(images, method="SplitLRP", **options), before)
    assert calls.count("scaling_back") == 1
    assert calls.count("activation_back") == 3  # PReLU's slopes by channel are not flat


def test_predictions_are_not_compiled(model, images, calls):
    before = model(images)
    model.compile()
    calls.clear()
    assert torch.equal(model(images), before)
    assert not calls


def test_a_missing_compiler_is_told_before_anything_starts(model, monkeypatch):
    def fails(*args, **options):
        raise RuntimeError("No working C++ compiler found\nin a long trace")

    elementwise.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: fails)
    with pytest.raises(UnsupportedError, match=r"^torch.compile fails: No working .* compiler"):
        model.compile()
    elementwise.compiled.cache_clear()


@pytest.mark.parametrize("theta", effort.slow_except(set(), [0.0, 0.5]))
def test_compiled_maps_differ_by_rounding(model, theta):
    batches = [torch.rand(count, 3, 12, 12) for count in (1, 3, 4)]
    before = [model.explain(images, method="SplitLRP", theta=theta) for images in batches]
    with suppress(UnsupportedError):  # without a compiler it goes on as before
        model.compile()
    for images, expected in zip(batches, before, strict=True):
        maps = model.explain(images, method="SplitLRP", theta=theta)
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
