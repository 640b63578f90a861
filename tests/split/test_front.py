"""A pair with a front is read at its pixels as it is when written out, and elsewhere as it is."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_pairs import fronted_pair, randomise, tiny_pair
from torch import nn

from dmn.errors import UnknownNameError, UnsupportedError
from dmn.explain import SplitCAM, explain
from dmn.models import DifferenceOfMonotone, MonotoneConvNet, PlainCNN, Trunk
from dmn.nn import is_pair
from dmn.split import FrontAdapter, ResplitExplainer, SplitModel, as_pair, unfold_front


@pytest.fixture
def x():
    return torch.rand(3, 3, 16, 16, dtype=torch.float64)


@pytest.fixture
def y():
    return torch.tensor([0, 1, 2])


@pytest.mark.parametrize("method", ["SplitCAM", "SplitGrad", "SplitLRP"])
def test_pixels_are_read_as_written_out_and_layers_as_they_are(x, y, method):
    net = fronted_pair()
    pair = FrontAdapter(net)
    assert is_pair(pair)
    assert pair.layers == ("input", *net.layers)
    assert torch.equal(pair(x), net(x))
    assert torch.equal(pair.g(x) - pair.h(x), net(x))
    for layer, same in {"input": unfold_front(net), "front": net, "stage1_1": net}.items():
        maps = (explain(each, x, y, method, layer=layer) for each in (pair, same))
        assert torch.equal(*maps), layer


@torch.no_grad()
def literal(net, x, y):
    """Carry g's sensitivities down a convolution, batch norm, ReLU and max pool, by hand.

    What reaches a pixel by paths of either sign, apart: their difference goes down by the weights,
    their sum by the magnitudes of the weights, both through the same gates.
    """
    conv, norm, relu, _ = net.front.stage1
    z = norm(conv(x))
    _, winners = F.max_pool2d(relu(z), 2, return_indices=True)
    at_front = net.read(x, y, ["front"])["front"]["g"]
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]

    def down(delta, sign):
        delta = F.max_unpool2d(delta, winners, 2) * (z > 0)
        return F.conv_transpose2d(delta * sign(scale), sign(conv.weight), padding=1)

    difference = down(at_front.delta_p - at_front.delta_n, lambda weight: weight)
    total = down(at_front.delta_p + at_front.delta_n, torch.abs)
    return (total + difference) / 2, (total - difference) / 2


def test_pixels_are_read_along_paths_of_either_sign(x, y):
    torch.manual_seed(0)
    front = Trunk(PlainCNN(3, (4,)), "stage1")
    nets = [
        MonotoneConvNet(8, (4,), 1, grid=2, num_classes=3, activation="convex_concave")
        for _ in range(2)
    ]
    net = randomise(DifferenceOfMonotone(*nets, "opposed", front=front)).double().eval()
    front.stage1.norm.weight.data[::2] *= -1
    reading = FrontAdapter(net).read(x, y, ["input"])["input"]["g"]
    expected = literal(net, x, y)
    torch.testing.assert_close(reading[2:], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(reading.p, x)
    assert torch.equal(reading.n, -x)
    assert min(float(each.min()) for each in expected) >= 0
    assert min(float(each.max()) for each in expected) > 0


def test_only_reading_pixels_needs_a_front_with_a_mirror_image(x, y):
    net = fronted_pair()
    net.front.add_module("last", nn.Sigmoid())
    pair = FrontAdapter(net)
    assert pair.read(x, y, ["front"])
    with pytest.raises(UnsupportedError, match=r"last \(Sigmoid\)"):
        pair.read(x, y, ["input"])
    with pytest.raises(UnknownNameError, match="no layer 'output'; there are front, stem"):
        pair.read(x, y, ["output"])


def test_every_network_is_a_pair():
    pair, net = tiny_pair(), PlainCNN(1, (4,), grid=2).eval()
    assert as_pair(pair) is pair
    assert isinstance(as_pair(fronted_pair()), FrontAdapter)
    assert isinstance(as_pair(net, torch.rand(1, 1, 8, 8)), SplitModel)


def test_pixels_are_read_of_a_front_that_still_trains(x, y):
    net = fronted_pair()
    explainer = ResplitExplainer(net, partial(SplitCAM, stream="g", part="p"))
    before = explainer(x, y)
    with torch.no_grad():
        net.front.conv1.weight.mul_(-1)
    assert not torch.allclose(explainer(x, y), before)
    assert torch.equal(explainer(x, y), SplitCAM(unfold_front(net), stream="g", part="p")(x, y))
