"""Every classifier of torchvision is split bit for bit, many of them at each image."""

from collections import Counter

import effort
import pytest
import torch
import torchvision
from small_pairs import randomise
from torch import nn

from dmn.canonize import canonize
from dmn.errors import UnsupportedError
from dmn.graph.nodes import place_and_kind
from dmn.nn import BackwardConfig
from dmn.split import split

NAMES = torchvision.models.list_models(module=torchvision.models)
# What is no difference of monotone functions of the streams, and is held at each image.
NOT_MONOTONE = {
    "convnext": {"LayerNorm", "layer_norm"},
    "efficientnet": {"mul"},
    "maxvit": {"LayerNorm", "einsum", "mul"},
    "mobilenet_v3": {"mul"},
    "regnet_y": {"mul"},
    "swin": {"LayerNorm", "matmul"},
    "vit": {"LayerNorm", "MultiheadAttention"},
}
HELD = {  # the modules that have it
    "convnext": {"LayerNorm", "LayerNorm2d"},
    "efficientnet": {"SqueezeExcitation"},
    "maxvit": {"LayerNorm", "RelativePositionalMultiHeadAttention", "SqueezeExcitation"},
    "mobilenet_v3": {"SqueezeExcitation"},
    "regnet_y": {"SqueezeExcitation"},
    "swin": {"LayerNorm", "ShiftedWindowAttention"},
    "swin_v2": {"LayerNorm", "ShiftedWindowAttentionV2"},
    "vit": {"LayerNorm", "MultiheadAttention"},
}
QUICK = {  # a family each, at its smallest
    *("alexnet", "resnet18", "densenet121", "googlenet", "inception_v3", "squeezenet1_1"),
    *("shufflenet_v2_x0_5", "mobilenet_v2", "mnasnet0_5", "regnet_x_400mf"),
}
QUICK_HELD = {
    *("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t", "convnext_tiny"),
    *("efficientnet_b0", "efficientnet_v2_s", "mobilenet_v3_small", "regnet_y_400mf"),
}
TARGET = torch.tensor([3, 5])


def family(name):
    return next((family for family in NOT_MONOTONE if name.startswith(family)), None)


EVERYWHERE = [name for name in NAMES if not family(name)]
AT_EACH_IMAGE = [name for name in NAMES if family(name)]
SIDES = {"inception_v3": 96, "maxvit_t": 224}


def build(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options |= {"image_size": 70 if name == "vit_h_14" else 64} if name.startswith("vit") else {}
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, **options).eval()
    if name.startswith("vit"):  # its logits start at 0, and so would all maps be
        torch.nn.init.normal_(model.heads.head.weight, std=0.02)
    return model


def images(name):
    side = SIDES.get(name, 70 if name == "vit_h_14" else 64)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def gradient(model, x):
    x = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(model(x).gather(1, TARGET[:, None]).sum(), x)
    return result


@pytest.mark.parametrize("name", effort.slow_except(QUICK, EVERYWHERE))
def test_split_equals_the_original_bit_for_bit(name):
    """Predictions, and the plain gradient at every shift; every map is finite in float32."""
    model, x = randomise(build(name)), images(name)
    model.requires_grad_(False)
    ours, truth = split(model, x), gradient(model, x)
    assert torch.equal(ours(x), model(x))
    for how in (BackwardConfig(), BackwardConfig(alpha=0.4), BackwardConfig("relevance")):
        readings = ours.read(x, TARGET, ["input"], how, ("g", "h", "g-h"))["input"]
        for stream, reading in readings.items():
            for values in reading:
                assert torch.isfinite(values).all(), (how, stream)
        if how.backward == "gradient":
            assert torch.equal(readings["g-h"].delta_p, truth)


def test_there_are_eighty():
    """37 of them were refused before coefficients were held."""
    assert (len(EVERYWHERE), len(AT_EACH_IMAGE)) == (43, 37)


@pytest.mark.parametrize("name", effort.slow_except(QUICK_HELD, AT_EACH_IMAGE))
def test_the_others_are_split_at_each_image(name):
    """Bit for bit; maps are finite, and the certificate lists all that is held."""
    model, x = randomise(build(name)).requires_grad_(False), images(name)[:1]
    ours = split(model, x)
    assert torch.equal(ours(x), model(x))
    target = TARGET[:1]
    for how in (BackwardConfig(), BackwardConfig("relevance")):
        readings = ours.read(x, target, ["input"], how, ("g", "h", "g-h"))["input"]
        for stream, reading in readings.items():
            assert all(torch.isfinite(values).all() for values in reading), (how, stream)
            assert reading.delta_p.abs().max() > 0, (how, stream)
        if how.backward == "gradient":
            plain, local = readings["g-h"].delta_p, ours.local_gradient(x, target)
            assert float((plain - local).abs().max()) <= 1e-3 * float(local.abs().max())
    kinds = Counter(place_and_kind(each)[1] for each in ours.held)
    assert set(kinds) == HELD.get(name.rpartition("_")[0], HELD[family(name)])
    modules = Counter(type(module).__name__ for module in model.modules())
    assert kinds == {kind: modules[kind] for kind in kinds}


@pytest.mark.parametrize("name", effort.slow_except(QUICK_HELD, AT_EACH_IMAGE))
def test_they_are_refused_with_complete_lists_if_nothing_may_be_held(name):
    model = build(name)
    with pytest.raises(UnsupportedError, match="have no rule") as caught:
        split(model, images(name)[:1], products="refuse")
    kinds = [node.kind for node in caught.value.nodes]
    assert NOT_MONOTONE[family(name)] <= set(kinds)
    norms = sum(type(module) is nn.LayerNorm for module in model.modules())
    assert kinds.count("LayerNorm") == norms


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet152", "densenet201"])
def test_the_deepest_are_finite_at_every_layer(name):
    """In float32, random weights, literal streams and convex pools included."""
    model, x = randomise(build(name)), images(name)
    ours = split(model, x)
    for how in (
        BackwardConfig(theta=1.0, pool="convex"),
        BackwardConfig("relevance", theta=1.0),
        BackwardConfig(alpha="balanced"),
        BackwardConfig(alpha=0.3, theta=0.1, threshold=10.0),
    ):
        read = ours.read(x, TARGET, ours.layers, how, ("g", "h", "g-h"))
        for layer, readings in read.items():
            for stream, reading in readings.items():
                cam = reading.p * reading.delta_p + reading.n * reading.delta_n
                assert torch.isfinite(cam).all(), (how, layer, stream)


@pytest.mark.slow
def test_float32_maps_of_vgg16_are_as_exact_as_the_gradient():
    """Against float64, relative to the largest: at most 3 times the plain gradient's error."""
    model, x = build("vgg16").requires_grad_(False), images("vgg16")
    double = split(model.double(), x.double())
    truth = gradient(model, x.double())
    single = split(model.float(), x)

    def error(ours, exact):
        """Compare up to a positive factor: what does not fit float32 is given in another unit."""
        ours = ours.double()
        return float((ours / ours.norm() - exact / exact.norm()).norm())

    plain = error(gradient(model, x), truth)
    for how in (
        BackwardConfig(),
        BackwardConfig(alpha=0.3),
        BackwardConfig(alpha=0.45),
        BackwardConfig("relevance"),
    ):
        for layer in ("input", "features.16", "features.30"):
            both = (
                net.read(images_, TARGET, [layer], how, ("g", "h"))[layer]
                for net, images_ in ((single, x), (double, x.double()))
            )
            ours, exact = both
            for side in ("g", "h"):
                cam, true = (r[side].p * r[side].delta_p for r in (ours, exact))
                assert error(cam, true) <= 3 * plain, (how, layer, side)


CANONIZED = ["resnet18", "densenet121", "mobilenet_v2"]


@pytest.mark.parametrize("name", effort.slow_except({"resnet18", "mobilenet_v2"}, CANONIZED))
def test_canonized_networks_split_too(name):
    model, x = randomise(build(name)).double(), images(name).double()
    canonical = canonize(model)
    ours, plain = split(canonical, x), split(model, x)
    assert torch.equal(ours(x), canonical(x))
    shared = set(ours.layers) & set(plain.layers)
    assert {"input", *(name for name, _ in model.named_children())} & set(plain.layers) <= shared
