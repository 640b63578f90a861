"""Every method explains every shipped network, and is what it claims to be on it."""

import effort
import pytest
import torch
from rival_networks import OPTIONS, POST_HOC
from torch import nn

import dmn
from dmn.baselines.rewrite import BothReLUs
from dmn.canonize import canonize
from dmn.errors import UnsupportedError
from dmn.io.resources import checkpoint_names
from dmn.nn import ConvexConcave, MaxMinPool2d

TARGET = torch.tensor([1, 7])
QUICK = {"mnist_paired", "mnist_front", "scenes_resnet18", "scenes_vgg16"}  # one of each kind

MODERN = {"scenes_vit", "scenes_convnext"}  # with layer norm and GELU
NO_RULE = {"DeepLift", "ExcitationBackprop"}  # for these; nor have LRP's composites


@pytest.fixture(params=effort.slow_except(QUICK, sorted({*checkpoint_names()} - MODERN)))
def network(request):
    return dmn.load(request.param)


def images(network):
    random = torch.Generator().manual_seed(0)
    return torch.rand(2, *network.size, generator=random)


def test_all_that_need_no_layer_explain_it(network):
    x = images(network)
    for name, method in POST_HOC.items():
        if "CAM" not in name:
            maps = method(network.model, **OPTIONS.get(name, {}))(x, TARGET)
            assert maps.isfinite().all(), name
            # others may be zero on noise: of few draws, or of rules of positive contributions alone
            assert maps.any() or name not in ("Gradient", "LRPEpsilon", "LRPGamma", "DeepLift")


@pytest.mark.parametrize("name", sorted(MODERN))
def test_modern_networks_are_explained_or_what_has_no_rule_is_named(name):
    network = dmn.load(name)
    x = images(network)
    for title, method in POST_HOC.items():
        if title in NO_RULE or title.startswith("LRP"):
            with pytest.raises(UnsupportedError, match="LayerNorm"):
                method(network.model)(x, TARGET)
        elif "CAM" not in title and "Rollout" not in title:
            maps = method(network.model, **OPTIONS.get(title, {}))(x, TARGET)
            assert maps.isfinite().all(), title
            assert maps.any(), title


def test_deep_lift_is_complete(network):
    model, x = network.model.double(), images(network).double()
    total = POST_HOC["DeepLift"](model)(x, TARGET).double().sum((1, 2, 3))
    rise = (model(x) - model(torch.zeros_like(x))).gather(1, TARGET[:, None])[:, 0]
    assert torch.allclose(total, rise, rtol=1e-4, atol=1e-4)


def test_canonization_leaves_complements_and_signs_where_they_are(network):
    """Relevance of 1 - x is that of what is missing, and signs only turn a maximum to a minimum."""
    x = images(network)
    written = canonize(network.model, x)
    norms = [module for module in written.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not norms
    depthwise = [
        module
        for module in written.modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    ]
    assert not depthwise


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_both_relus_are_the_convex_and_concave_unit(channels):
    z = torch.randn(2, channels, 3, 3)
    assert torch.equal(BothReLUs()(z), ConvexConcave()(z))


def test_deep_lift_is_complete_through_maxima_and_minima():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), ConvexConcave(), MaxMinPool2d(6), nn.Conv2d(6, 6, 2)),
        *(ConvexConcave(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8)),
    ).double()
    x = torch.randn(2, 1, 10, 10).double()
    total = POST_HOC["DeepLift"](model, 0.3)(x, TARGET).double().sum((1, 2, 3))
    rise = (model(x) - model(torch.full_like(x, 0.3))).gather(1, TARGET[:, None])[:, 0]
    assert torch.allclose(total, rise, rtol=1e-5)
