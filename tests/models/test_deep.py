import pytest
import torch
from small_pairs import randomise
from torch import nn

from dmn.models import DifferenceOfMonotone, MonotoneResNet, MonotoneVGG
from dmn.nn import assert_monotone, constrained, effective_rank

SMALL = {
    "resnet": lambda **options: MonotoneResNet(2, 4, (1, 2), "tiny", 2, 3, **options),
    "small stem": lambda **options: MonotoneResNet(2, 4, (1, 1), "small", 1, 3, **options),
    "vgg": lambda **options: MonotoneVGG(2, 4, (2, 1), (5,), 2, 3, **options),
}
ACTIVATIONS = ["convex", "convex_concave", "saturating"]


@pytest.mark.parametrize("pool", ["max", "max_min"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", SMALL)
def test_jacobians_are_nonnegative(kind, activation, pool):
    net = randomise(SMALL[kind](activation=activation, pool=pool)).double().eval()
    assert_monotone(net)
    x = torch.rand(2, 8, 8, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], x)
    assert (jacobian >= 0).all()
    assert (jacobian > 0).any()


def weights(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_the_defaults_are_as_deep_as_they_say():
    shortcuts = 3
    assert len(weights(MonotoneResNet(3))) == 18 + shortcuts
    assert len(weights(MonotoneVGG(3))) == 18


@pytest.mark.parametrize(
    ("stem", "margin", "side"), [("imagenet", 3, 16), ("small", 1, 32), ("tiny", 1, 64)]
)
def test_stems_divide_the_sides(stem, margin, side):
    nets = [MonotoneResNet(6, 4, (1, 1), stem, num_classes=5) for _ in range(2)]
    pair = DifferenceOfMonotone(*nets, margin=margin).eval()
    x = torch.rand(2, 3, 64, 64)
    assert pair(x).shape == (2, 5)
    reading = pair.read(x, torch.tensor([0, 1]), ["stage1_1"])["stage1_1"]["g"]
    assert reading.p.shape == (2, 4, side, side)


@pytest.mark.parametrize("kind", SMALL)
def test_lrp_is_activation_times_gradient_where_units_are_piecewise_linear(kind):
    pair = DifferenceOfMonotone(*(randomise(SMALL[kind]()) for _ in range(2)), inputs="paired")
    x = torch.rand(2, 1, 8, 8)
    maps = [
        pair.explain(x, torch.tensor([0, 2]), method, layer="stage2_1")
        for method in ("SplitCAM", "SplitLRP")
    ]
    assert maps[0].abs().max() > 0
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)


def test_depth_does_not_collapse_the_channels_at_the_start():
    """Log-normal weights leave one channel of all at this depth; Dirac's leave many."""
    torch.manual_seed(0)
    x = torch.rand(8, 2, 34, 34)
    ranks = {}
    for start in ("dirac", "log_normal"):
        net = MonotoneVGG(2, 8, start=start)
        features = nn.Sequential(*list(net.children())[: list(net._modules).index("cells")])
        with torch.no_grad():
            ranks[start] = effective_rank(features(x))
    assert ranks["dirac"] > 2 * ranks["log_normal"]


@pytest.mark.parametrize("kind", SMALL)
def test_every_weight_is_constrained_and_an_unconstrained_twin_has_the_same(kind):
    net, twin = SMALL[kind](), SMALL[kind](constraint="none")
    layers = [
        m
        for m in net.modules()
        if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d)
    ]
    assert len(list(constrained(net))) == len(layers)
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (net, twin)]
    assert shapes[0] == shapes[1]
    assert weights(twin)[0].weight.min() < 0
