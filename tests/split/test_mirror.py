"""The mirrored form makes [f, -f] of [x, -x] with nonnegative weights, and bounds f elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from small_pairs import fronted_pair, randomise, tiny_pair
from torch import nn

from dmn.errors import NotMonotoneError, UnknownNameError, UnsupportedError
from dmn.models import DifferenceOfMonotone, PlainCNN, ResNet18, Trunk
from dmn.models.ordinary import VGG16BN
from dmn.nn import Add, assert_monotone
from dmn.split import mirror, unfold_front

NETS = {
    "plain": lambda: PlainCNN(3, (3, 4), grid=2),
    "resnet": lambda: ResNet18(width=4),
    "vgg": lambda: VGG16BN(width=2, grid=1),
    "trunk": lambda: Trunk(ResNet18(width=4, stem="small"), "layer2"),
}


def drawn(make, seed=0):
    torch.manual_seed(seed)
    net = randomise(make()).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::2] *= -1  # scales of ordinary networks have any sign
    return net


def weights(net):
    return [p for name, p in net.named_parameters() if name.endswith("weight")]


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_of_an_image_and_its_negative_it_makes_the_network_and_its_negative(make):
    net = drawn(make)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    image = mirror(net)
    assert min(weight.min() for weight in weights(image)) >= 0
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    f = net(x)
    torch.testing.assert_close(
        image(torch.cat([x, -x], 1)), torch.cat([f, -f], 1), rtol=1e-6, atol=1e-6
    )  # rounding that a and -a do not share is multiplied by |W| at each of 18 layers
    assert f.std() > 1e-3
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def interval(net, low, high):
    """Interval arithmetic, literally: each layer of `PlainCNN` by the signs of its weights."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            p, n = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
            low, high = (
                F.conv2d(a, p, padding=1) + F.conv2d(b, n, padding=1)
                for a, b in ((low, high), (high, low))
            )
        elif isinstance(layer, nn.BatchNorm2d):
            ends = torch.stack([layer(low), layer(high)])
            low, high = ends.amin(0), ends.amax(0)
        elif isinstance(layer, nn.Linear):
            p, n = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
            low, high = (a @ p.T + b @ n.T + layer.bias for a, b in ((low, high), (high, low)))
        elif not any(layer.children()):
            low, high = layer(low), layer(high)
    return low, high


def test_of_an_interval_it_makes_the_bounds_of_interval_arithmetic():
    net = drawn(NETS["plain"])
    low, more = torch.rand(2, 4, 3, 16, 16, dtype=torch.float64)
    bounds = mirror(net)(torch.cat([low + 0.1 * more, -low], 1))
    highest, lowest = bounds[:, :10], -bounds[:, 10:]
    expected = interval(net, low, low + 0.1 * more)
    torch.testing.assert_close((lowest, highest), expected, rtol=1e-10, atol=1e-10)
    f = net(low + 0.1 * more * torch.rand_like(more))
    assert ((lowest <= f) & (f <= highest)).all()


def test_what_has_no_mirror_image_is_named():
    pools = nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2), nn.AdaptiveMaxPool2d(2)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Sigmoid(), nn.Conv2d(4, 2, 3), *pools)
    with pytest.raises(UnsupportedError, match="cannot mirror Sequential") as caught:
        mirror(net)
    named = ["0 (Conv2d)", "1 (Sigmoid)", "3 (MaxPool2d)", "4 (MaxPool2d)", "5 (AdaptiveMaxPool2d)"]
    assert [node.path for node in caught.value.nodes] == named


def test_other_inputs_are_not_written_out():
    with pytest.raises(UnsupportedError, match="cannot write out Difference") as caught:
        unfold_front(tiny_pair("inverted"))
    assert [node.path for node in caught.value.nodes] == ["g.input (Plain)", "h.input (Inverted)"]


def test_a_network_with_a_front_is_written_out_as_one_of_nonnegative_weights():
    net = fronted_pair()
    whole = unfold_front(net.train())
    assert all(module.training for module in net.modules())
    net.eval()
    assert_monotone(whole)
    assert min(weight.min() for weight in weights(whole)) >= 0
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(whole(x), net(x), rtol=1e-8, atol=1e-8)
    for side in ("g", "h"):
        low = getattr(whole, side).input(x)
        high = low + torch.rand_like(low)
        with torch.no_grad():
            change = getattr(whole, side).net(high) - getattr(whole, side).net(low)
        assert change.min() >= 0
        assert change.max() > 0
    maps = whole.explain(x, method="SplitLRP", layer="input", part="p")
    assert maps.shape == (4, 1, 16, 16)


def test_relevance_of_the_written_out_network_is_that_of_the_front_where_both_have_it():
    net = fronted_pair()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    for method in ("SplitCAM", "SplitGrad", "SplitLRP"):
        one = net.explain(x, 1, method, layer="stage1_1")
        other = unfold_front(net).explain(x, 1, method, layer="net.stage1_1")
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_written_out_network_is_checked_like_any_other():
    net = fronted_pair()
    whole = unfold_front(net)
    whole.get_submodule("g.net.front.conv1").weight.data[0] = -1
    with pytest.raises(NotMonotoneError, match=r"g\.net\.front\.conv1\.weight has the value -1"):
        assert_monotone(whole)
    with pytest.raises(UnknownNameError, match=r"net\.front\.layer1: never called"):
        whole.explain(torch.rand(1, 3, 16, 16, dtype=torch.float64), layer="front.layer1")
    assert Add in {type(module) for module in whole.modules()}
    assert isinstance(whole, DifferenceOfMonotone)
