import pytest
import torch
from small_pairs import randomise

from dmn.models import MonotoneConvNet, MonotoneMLP
from dmn.nn import assert_monotone

ACTIVATIONS = ["convex", "convex_concave", "saturating"]


def networks(activation, **options):
    yield MonotoneMLP(2 * 8 * 8, (9, 7), 3, activation, **options)
    for residual in (False, True):
        yield MonotoneConvNet(2, (4, 6), 2, residual, 2, 3, activation, **options)
    if activation == "convex_concave":
        yield MonotoneConvNet(2, (4, 5), 1, True, 2, 3, activation, pool="max_min", **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("start", ["dirac", "log_normal", "uniform"])
def test_networks_start_monotone(activation, start):
    for net in networks(activation, start=start):
        assert_monotone(net)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jacobians_are_nonnegative(activation):
    for net in networks(activation):
        net = randomise(net).double().eval()
        x = torch.rand(2, 8, 8, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x, net=net: net(x[None])[0], x)
        assert (jacobian >= 0).all()
        assert (jacobian > 0).any()


def test_relu_networks_are_convex_and_mixed_ones_are_not():
    torch.manual_seed(0)
    x, y = torch.rand(2, 500, 2, 8, 8, dtype=torch.float64) * 3 - 1
    gaps = {}
    for activation in ("convex", "convex_concave"):
        for net in networks(activation):
            net = randomise(net).double().eval()
            gap = (net(x) + net(y)) / 2 - net((x + y) / 2)
            gaps.setdefault(activation, []).append(float(gap.detach().min()))
    assert min(gaps["convex"]) >= -1e-9
    assert min(gaps["convex_concave"]) < -1e-3


def test_layers_are_named_in_order():
    net = MonotoneConvNet(1, (4, 6, 6), 2)
    assert list(net._modules) == [
        *("stem", "stage1_1", "stage1_2", "pool1", "stage2_1", "stage2_2", "pool2"),
        *("stage3_1", "stage3_2", "cells", "flatten", "head"),
    ]


@pytest.mark.parametrize("size", [16, 28, 64])
def test_any_image_size_fits(size):
    net = MonotoneConvNet(3, (4, 6, 6), num_classes=5).eval()
    assert net(torch.rand(2, 3, size + 2, size + 2)).shape == (2, 5)


def test_unconstrained_twin_has_the_same_parameters():
    twins = [MonotoneConvNet(2, constraint=constraint) for constraint in ("projection", "none")]
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in twins]
    assert shapes[0] == shapes[1]
    assert twins[1].stem.conv.weight.min() < 0
