import pytest
import torch
from torch import nn

from dmn.nn import MONOTONE_ACTIVATIONS, ConvexConcave, Inverted, MaxMinPool2d, Paired, Plain


def make(kind):
    return kind(-1.0, 1.0) if kind is nn.Hardtanh else kind()


@pytest.mark.parametrize("kind", MONOTONE_ACTIVATIONS)
def test_activations_are_nondecreasing_and_zero_at_zero(kind):
    activation = make(kind)
    z = torch.linspace(-3, 3, 301, dtype=torch.float64).view(-1, 1).expand(-1, 4)
    assert (activation(z).diff(dim=0) >= 0).all()
    assert (activation(torch.zeros(1, 4)) == 0).all()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_convex_concave_halves(channels):
    z = torch.randn(3, channels, 4, 4)
    out = ConvexConcave()(z)
    convex = (channels + 1) // 2
    assert torch.equal(out[:, :convex], z[:, :convex].clamp(min=0))
    assert torch.equal(out[:, convex:], z[:, convex:].clamp(max=0))


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("size", [2, 3])
def test_pools_take_maxima_of_convex_channels_and_minima_of_concave_ones(channels, size):
    x = torch.randn(3, channels, 7, 6)
    windows = x.unfold(2, size, size).unfold(3, size, size)
    expected = windows.amax((-2, -1))
    convex = (channels + 1) // 2
    expected[:, convex:] = windows.amin((-2, -1))[:, convex:]
    pool = MaxMinPool2d(channels, size)
    assert torch.equal(pool(x), expected)
    assert not pool.state_dict()
    overlapping = (3, 2, 1)  # padding is never chosen, on either side
    expected = nn.functional.max_pool2d(x, *overlapping)
    expected[:, convex:] = -nn.functional.max_pool2d(-x, *overlapping)[:, convex:]
    assert torch.equal(MaxMinPool2d(channels, *overlapping)(x), expected)


def test_pools_keep_channels_last():
    x, pool = torch.randn(3, 4, 6, 6), MaxMinPool2d(4)
    in_last = pool(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(in_last, pool(x))
    assert in_last.is_contiguous(memory_format=torch.channels_last)


def test_views_pad_the_image_with_its_background_before_complementing():
    x = torch.rand(2, 1, 3, 3)
    assert Plain(1)(x)[:, :, 0].eq(0).all()
    assert Inverted(1)(x)[:, :, 0].eq(1).all()
    paired = Paired(1)(x)
    assert paired.shape == (2, 2, 5, 5)
    assert torch.equal(paired[:, :1], Plain(1)(x))
    assert torch.equal(paired[:, 1:], Inverted(1)(x))
    assert torch.equal(Inverted()(x), 1 - x)
