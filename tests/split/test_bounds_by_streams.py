"""A split network is bounded by its streams, where they are monotone."""

import pytest
import torch
from boxed_networks import logits, points, random_box
from small_pairs import randomise
from torch import nn

from dmn.certify import bounds
from dmn.errors import UnsupportedError
from dmn.models import PlainCNN
from dmn.split import split


def network():
    return randomise(PlainCNN(1, (4, 6), grid=1, num_classes=3)).double().eval()


def test_no_point_leaves_the_bounds():
    model = split(network(), theta=1.0, pool="convex")
    low, high = random_box((1, 8, 8))
    low, high = 2 * low - 1, 2 * high - 1  # both streams
    found = model.bounds(low, high)
    outputs = logits(model, points(low, high, 100))
    assert (found.lower <= outputs + 1e-9).all()
    assert (outputs <= found.upper + 1e-9).all()
    assert not found.exact


def test_intervals_of_the_operations_are_tighter():
    model = split(network(), theta=1.0, pool="convex")
    low, high = random_box((1, 8, 8))
    streams, intervals = model.bounds(low, high), bounds(model, low, high)
    assert torch.equal(intervals.upper, bounds(model.network, low, high).upper)
    assert (streams.upper >= intervals.upper - 1e-9).all()
    assert (streams.lower <= intervals.lower + 1e-9).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "theta is 0"), ({"theta": 0.5}, "theta is 0.5"), ({"theta": 1.0}, "pool is winner")],
)
def test_streams_that_are_not_monotone_are_refused(options, message):
    model = split(network(), **options)
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match=message):
        model.bounds(x, x)


def test_a_network_with_held_operations_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="1 of its operations"):
        split(net, theta=1.0).bounds(x, x)
