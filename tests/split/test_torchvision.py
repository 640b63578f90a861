"""Every classifier of torchvision: split bit for bit, or refused with a complete list."""

import effort
import pytest
import torch
import torchvision
from small_pairs import randomise

from dmn.canonize import canonize
from dmn.errors import UnsupportedError
from dmn.nn import BackwardConfig
from dmn.split import split

NAMES = torchvision.models.list_models(module=torchvision.models)
# Attention, squeeze-and-excitation, LayerNorm: no difference of monotone functions of the streams.
REFUSED = {
    "convnext": {"LayerNorm", "LayerNorm2d"},
    "efficientnet": {"mul"},
    "maxvit": {"LayerNorm", "einsum", "softmax", "mul"},
    "mobilenet_v3": {"mul"},
    "regnet_y": {"mul"},
    "swin": {"LayerNorm", "shifted_window_attention"},
    "vit": {"LayerNorm", "MultiheadAttention"},
}
QUICK = {  # a family each, at its smallest
    *("alexnet", "resnet18", "densenet121", "googlenet", "inception_v3", "squeezenet1_1"),
    *("shufflenet_v2_x0_5", "mobilenet_v2", "mnasnet0_5", "regnet_x_400mf"),
}
QUICK_REFUSED = {
    *("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t", "convnext_tiny"),
    *("efficientnet_b0", "efficientnet_v2_s", "mobilenet_v3_small", "regnet_y_400mf"),
}
TARGET = torch.tensor([3, 5])


def family(name):
    return next((family for family in REFUSED if name.startswith(family)), None)


SPLIT = [name for name in NAMES if not family(name)]
NOT_SPLIT = [name for name in NAMES if family(name)]


def build(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    return torchvision.models.get_model(name, **options).eval()


def images(name):
    side = 96 if name == "inception_v3" else 64
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def gradient(model, x):
    x = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(model(x).gather(1, TARGET[:, None]).sum(), x)
    return result


@pytest.mark.parametrize("name", effort.slow_except(QUICK, SPLIT))
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


@pytest.mark.parametrize("name", effort.slow_except(QUICK_REFUSED, NOT_SPLIT))
def test_the_others_are_refused_with_complete_lists(name):
    try:
        with torch.device("meta"):
            model = torchvision.models.get_model(name).eval()
    except NotImplementedError:  # built from the values of tensors
        model = build(name)
    with pytest.raises(UnsupportedError, match="have no rule") as caught:
        split(model)
    kinds = {type(module).__name__ for module in model.modules()}
    listed = {str(node).split("(")[1].split(")")[0] for node in caught.value.nodes}
    assert REFUSED[family(name)] & listed
    for kind in ("LayerNorm", "MultiheadAttention"):
        if kind in kinds:
            count = sum(type(module).__name__ == kind for module in model.modules())
            assert sum(f"({kind})" in str(node) for node in caught.value.nodes) == count


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
