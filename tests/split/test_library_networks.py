"""Classifiers of timm and Hugging Face are split bit for bit, most of them at each image."""

import pytest
import torch
from effort import slow_except
from library_networks import (
    HUGGING_FACE,
    TIMM,
    hugging_face_network,
    noise,
    side_of,
    timm_network,
)
from torch import nn

from dmn.errors import UnsupportedError
from dmn.split import split

# Networks without attention, gates, and norms other than BatchNorm.
EVERYWHERE = {
    *("convmixer_768_32", "densenet121", "dla34", "hrnet_w18_small", "mobilenetv4_conv_small"),
    *("resmlp_12_224", "resnet18", "ResNet", "MobileNetV2"),
}
REFUSED = {  # by name, its operations without a rule
    "hiera_tiny_224": ["amax", "amax", "amax"],
    "volo_d1_224": ["max"],
}
# For one image, torch 2.14 on the CPU differentiates BatchNorm wrongly where the gradient arrives
# from tokens, whose stride of the batch is not that of an image.
BATCHES = {"efficientformer_l1": 2}
QUICK_TIMM = (
    *("convnext_atto", "edgenext_xx_small", "efficientvit_b0", "mambaout_femto", "pvt_v2_b0"),
    *("skresnet18", "mobilevit_xxs"),
)
QUICK_HUGGING_FACE = ("ViT", "Beit", "Swinv2", "ConvNextV2", "ResNet")


def check(name: str, model: nn.Module) -> None:
    """Split a network, which compares predictions, and look at its maps."""
    x = noise(side_of(name), BATCHES.get(name, 1))
    ours = split(model, x)
    assert bool(ours.held) == (name not in EVERYWHERE)
    relevance = ours.explain(x, method="SplitLRP")
    assert torch.isfinite(relevance).all()
    assert relevance.abs().max() > 0
    target = ours(x).argmax(1)
    gradient = ours.read(x, target, ["input"], streams=["g-h"])["input"]["g-h"].delta_p
    local = ours.local_gradient(x, target)
    assert (gradient - local).abs().max() <= 1e-3 * local.abs().max()


@pytest.mark.parametrize(
    "name", slow_except(QUICK_TIMM, [name for name in TIMM if name not in REFUSED])
)
def test_timm(name):
    check(name, timm_network(name))


@pytest.mark.parametrize("name", slow_except(QUICK_HUGGING_FACE, HUGGING_FACE))
def test_hugging_face(name):
    check(name, hugging_face_network(name))


@pytest.mark.parametrize("name", slow_except((), REFUSED))
def test_the_others_are_refused_with_what_is_in_the_way(name):
    with pytest.raises(UnsupportedError, match="have no rule") as caught:
        split(timm_network(name), noise(side_of(name), batch=1))
    kinds = [node.kind for node in caught.value.nodes]
    assert kinds == REFUSED[name]
