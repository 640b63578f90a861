"""Bounds hold at every point of a box, and are attained where they are called exact."""

import effort
import pytest
import torch
from boxed_networks import EXACT, NETWORKS, image_shape, logits, points, random_box
from small_pairs import tiny_pair
from torch import nn

from dmn.certify import bounds, box, certain, worst_logits
from dmn.errors import DataError, TargetError, UnsupportedError

BOXES = 20


@pytest.mark.parametrize("name", NETWORKS)
def test_no_point_leaves_the_bounds(name):
    """10,000 points in make test-all; margins hold too, and are tighter than single bounds."""
    net = NETWORKS[name]()
    low, high = random_box(image_shape(name), BOXES)
    found = bounds(net, low, high)
    outputs = logits(net, points(low, high, effort.examples(1_000, 10_000) // BOXES))
    assert (found.lower <= outputs).all()
    assert (outputs <= found.upper).all()
    target = torch.randint(3, (BOXES,))
    own = outputs.gather(2, target.expand(len(outputs), -1)[..., None])
    worst = worst_logits(net, low, high, target)
    assert (outputs - own <= worst + 1e-9).all()
    assert (outputs - own <= worst_logits(net, low, high, target, outward=True)).all()
    separate = found.margins(target)
    assert (worst <= separate + 1e-9).all()
    assert (separate - worst).max() > 1e-3
    assert (worst.gather(1, target[:, None]) == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_bounds_are_attained_at_the_ends(name):
    net = NETWORKS[name]()
    low, high = random_box(image_shape(name), BOXES)
    found = bounds(net, low, high)
    assert found.exact == (name in EXACT)
    with torch.no_grad():
        ends = net(low), net(high)
    attained = all(
        torch.allclose(*pair, rtol=1e-9, atol=1e-9) for pair in zip(found[:2], ends, strict=True)
    )
    assert attained == found.exact


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [0.0, 1e-7, 1e-2])
def test_float32_stays_within(name, size):
    """The bounds are so narrow that the network's own rounding would leave those of float64."""
    net = NETWORKS[name]()
    x = torch.rand(BOXES, *image_shape(name))
    low, high = x - size, x + size
    exact = bounds(net, low.double(), high.double())
    net.float()
    found = bounds(net, low, high)
    outputs = logits(net, points(low, high, 60)).double()
    assert (found.lower <= outputs).all()
    assert (outputs <= found.upper).all()
    if size == 0.0:
        assert (outputs > exact.upper).any() or (outputs < exact.lower).any()
        limit = 10 if name == "ResNet18" else 0.02  # intervals grow in each of 18 layers
        assert (found.upper - found.lower).max() < limit * outputs.abs().max()


def test_a_negative_weight_makes_bounds_inexact_and_leaves_them_sound():
    net = tiny_pair("inverted")
    low, high = random_box((1, 8, 8))
    assert bounds(net, low, high).exact
    net.g.net.head.weight.data[0, 0] = -1.0
    found = bounds(net, low, high)
    assert not found.exact
    outputs = logits(net, points(low, high, 100))
    assert (found.lower <= outputs).all()
    assert (outputs <= found.upper).all()


@pytest.mark.parametrize("name", ["inverted convex", "paired convex_concave", "PlainCNN"])
def test_the_worst_loss_can_be_differentiated_by_the_weights(name):
    net = NETWORKS[name]().train()
    low, high = random_box((1, 8, 8), 3)
    target = torch.tensor([0, 1, 2])
    weights = list(net.parameters())

    def loss():
        return nn.functional.cross_entropy(worst_logits(net, low, high, target), target)

    gradients = torch.autograd.grad(loss(), weights)
    assert net.training
    for weight, gradient in zip(weights, gradients, strict=True):
        index = gradient.abs().argmax()
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6):
                weight.view(-1)[index] += step
                values.append(loss())
            weight.view(-1)[index] += 1e-6
        slope = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close(slope, gradient.view(-1)[index], rtol=1e-4, atol=1e-7)


def test_larger_boxes_are_less_certain():
    net = tiny_pair("inverted")
    x = torch.rand(50, 1, 8, 8, dtype=torch.float64)
    shares = [certain(net, *box(x, eps)).double().mean() for eps in (0.0, 0.001, 0.01, 0.1, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert shares[-1] < shares[1]


def test_a_box_within_a_mask():
    x = torch.rand(4, 2, 6, 6)
    mask = torch.rand(4, 1, 6, 6) > 0.5
    low, high = box(x, 0.3, mask)
    outside = ~mask.expand_as(x)
    assert torch.equal(low[outside], x[outside])
    assert torch.equal(high[outside], x[outside])
    assert torch.equal(low[~outside], (x - 0.3).clamp(0)[~outside])
    assert torch.equal(high[~outside], (x + 0.3).clamp(max=1)[~outside])


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.LayerNorm(4)),
            UnsupportedError,
            "2 (Lay",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Softmax(1)), UnsupportedError, "2 (Soft"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), TargetError, "one"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), TargetError, "no class 2"),
    ],
)
def test_what_cannot_be_bounded_is_named(net, error, message):
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(error) as caught:
        worst_logits(net, x, x, torch.tensor([2]))
    assert message in str(caught.value)


def test_a_box_must_not_be_empty():
    x = torch.rand(1, 1, 8, 8)
    for low, high in ((x + 1e-3, x), (x, x * torch.nan), (x, x[..., 1:])):
        with pytest.raises(DataError):
            bounds(tiny_pair().float(), low, high)
