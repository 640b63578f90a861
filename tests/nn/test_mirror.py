"""The mirrored form computes what the ordinary network does, and is monotone."""

import pytest
import torch
from small_pairs import randomise

from dmn.models import DifferenceOfMonotone, MonotoneConvNet, MonotoneResNet, MonotoneVGG
from dmn.nn import NotMirrorableError, assert_monotone, mirrored

KINDS = {
    "conv": (MonotoneConvNet, 1, lambda w: {"widths": (w, w, 2 * w), "units": 2, "grid": 2}),
    "residual": (MonotoneConvNet, 2, lambda w: {"widths": (w, w), "residual": True, "kernel": 5}),
    "resnet": (MonotoneResNet, 3, lambda w: {"width": w, "blocks": (1, 2)}),
    "small": (MonotoneResNet, 1, lambda w: {"width": w, "blocks": (1, 1), "stem": "small"}),
    "vgg": (MonotoneVGG, 1, lambda w: {"width": w, "units": (2, 1), "hidden": (6 * w,)}),
}
ORDINARY = {"constraint": "none", "activation": "convex", "pool": "max"}
MONOTONE = {"activation": "convex_concave", "pool": "max_min"}


def networks(kind, width=3, **options):
    make, margin, size = KINDS[kind]
    ordinary, monotone = (
        [make(channels, **size(w), num_classes=4, **given) for _ in "gh"]
        for channels, w, given in ((3, width, ORDINARY), (6, 2 * width, MONOTONE | options))
    )
    return (
        randomise(DifferenceOfMonotone(*ordinary, "plain", margin)).eval(),
        DifferenceOfMonotone(*monotone, "paired", margin).eval(),
    )


def flip_some_scales(net):
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data[::2] *= -1
            module.weight.data[1] = 1e-5  # below the floor of a constrained one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flipped", [False, True])
def test_mirrored_networks_compute_the_same_with_nonnegative_weights(kind, flipped):
    torch.manual_seed(0)
    ordinary, monotone = (net.double() for net in networks(kind))
    if flipped:
        flip_some_scales(ordinary)
    monotone.load_state_dict(mirrored(ordinary.state_dict(), monotone))
    assert_monotone(monotone)
    x = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    for side in ("g", "h", "forward"):
        expected, found = (getattr(net, side)(x) for net in (ordinary, monotone))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert ordinary(x).std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_activation_stands_beside_its_negative_and_nothing_grows(kind):
    torch.manual_seed(1)
    ordinary, monotone = (net.double() for net in networks(kind))
    monotone.load_state_dict(mirrored(ordinary.state_dict(), monotone))
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    layers = [name for name in ordinary.layers if name.startswith("stage") and "." not in name]
    target = torch.tensor([0, 1])
    one, other = (net.read(x, target, layers) for net in (ordinary, monotone))
    for layer in layers:
        for side in ("g", "h"):
            both = torch.cat([one[layer][side].p, -one[layer][side].p], 1)
            torch.testing.assert_close(other[layer][side].p, both, rtol=1e-12, atol=1e-12)


def test_noise_in_single_weights_changes_little():
    """The fully untied split is a difference of huge numbers; the mirrored form is not."""
    torch.manual_seed(2)
    ordinary, monotone = networks("resnet")
    monotone.load_state_dict(mirrored(ordinary.state_dict(), monotone))
    x = torch.rand(4, 3, 32, 32)
    before = monotone(x)
    torch.testing.assert_close(before, ordinary(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for weight in monotone.parameters():
            weight *= 1 + 1e-6 * torch.randn_like(weight)
    assert (monotone(x) - before).abs().max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": "convex"}, r"g\.net\.stem\.activation is a ReLU.*`activation: convex_con"),
        ({"activation": "saturating"}, r"stem\.activation is a Hardtanh"),
        ({"pool": "max"}, r"g\.net\.pool1 is a MaxPool2d.*`pool: max_min`"),
    ],
)
def test_networks_that_cannot_hold_a_mirrored_one_are_refused(options, named):
    ordinary, monotone = networks("conv", **options)
    with pytest.raises(NotMirrorableError, match=named):
        mirrored(ordinary.state_dict(), monotone)


def test_weights_that_lack_are_named():
    ordinary, monotone = networks("conv")
    state = ordinary.state_dict()
    del state["h.net.stage1_1.norm.running_mean"]
    with pytest.raises(NotMirrorableError, match=r"no h\.net\.stage1_1\.norm\.running_mean among"):
        mirrored(state, monotone)
