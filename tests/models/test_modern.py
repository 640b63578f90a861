"""The modern networks are torchvision's, but for widths, depths, stem and classes."""

import pytest
import torch
import torchvision

from dmn.errors import OptionError
from dmn.models import ConvNeXt, ViT

SMALL_VIT = {"image_size": 32, "patch_size": 4, "layers": 2, "heads": 2, "width": 16, "mlp": 32}


@pytest.mark.parametrize(
    ("own", "original"),
    [(ConvNeXt, torchvision.models.convnext_tiny), (ViT, torchvision.models.vit_b_16)],
)
def test_by_default_they_are_the_original(own, original):
    with torch.device("meta"):
        mine, theirs = own(num_classes=1000), original()
    shapes = [
        {key: value.shape for key, value in net.state_dict().items()} for net in (mine, theirs)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("own", "original"),
    [
        (ConvNeXt(7, widths=(96, 192), depths=(1, 2)), "convnext"),
        (ViT(7, **SMALL_VIT), "vit"),
    ],
)
def test_with_its_weights_they_say_what_the_original_says(own, original):
    if original == "convnext":
        stages = [
            torchvision.models.convnext.CNBlockConfig(96, 192, 1),
            torchvision.models.convnext.CNBlockConfig(192, None, 2),
        ]
        theirs = torchvision.models.ConvNeXt(stages, num_classes=7)
    else:
        theirs = torchvision.models.VisionTransformer(32, 4, 2, 2, 16, 32, num_classes=7)
    theirs.load_state_dict(own.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert own.eval()(x).equal(theirs.eval()(x))


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: ConvNeXt(5, widths=(8, 16, 32), depths=(1, 2, 1), in_channels=1), 1),
        (lambda: ConvNeXt(5, widths=(8,), depths=(2,), stem="overlapping"), 3),
        (lambda: ViT(5, **SMALL_VIT, in_channels=1), 1),
        (lambda: ViT(5, **SMALL_VIT, in_channels=4, stem=(6, 12)), 4),
    ],
)
def test_small_networks_classify_images_of_any_channels(make, channels):
    net = make()
    logits = net(torch.rand(2, channels, 32, 32))
    assert logits.shape == (2, 5)
    logits.logsumexp(dim=1).sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())


@pytest.mark.parametrize("stem", ["patches", "overlapping"])
def test_either_stem_of_a_convnext_quarters_the_sides(stem):
    net = ConvNeXt(widths=(8, 16), depths=(1, 1), stem=stem)
    assert net.features[0](torch.rand(1, 3, 32, 32)).shape == (1, 8, 8, 8)


@pytest.mark.parametrize("stem", [(), (6, 12)])
def test_a_vit_has_a_token_for_each_patch_with_or_without_a_stem(stem):
    net = ViT(**SMALL_VIT, stem=stem)
    assert net.conv_proj(torch.rand(1, 3, 32, 32)).shape == (1, 16, 8, 8)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match=r"widths has 2 stages and depths 3"):
        ConvNeXt(widths=(8, 16), depths=(1, 1, 1))
    with pytest.raises(OptionError, match=r"depths is \[1\]; give at least two blocks"):
        ConvNeXt(widths=(8,), depths=(1,))
    with pytest.raises(OptionError, match=r"patch_size 5 does not divide image_size 32"):
        ViT(image_size=32, patch_size=5)
    with pytest.raises(OptionError, match=r"a stem of 2 layers makes patches of 4 pixels"):
        ViT(image_size=32, patch_size=8, stem=(6, 12))
    with pytest.raises(OptionError, match=r"width 16 is no multiple of heads 3"):
        ViT(image_size=32, patch_size=8, width=16, heads=3)
