"""Split networks read where they hold tokens, or channels last."""

import pytest
import torch
from small_transformers import vit
from torchvision.models import ConvNeXt
from torchvision.models.convnext import CNBlockConfig

from dmn.errors import UnknownNameError
from dmn.explain import SplitCAM, SplitLRP
from dmn.nn import BackwardConfig
from dmn.split import split

TARGET = torch.tensor([1, 4])
X = torch.rand(2, 3, 24, 16, dtype=torch.float64)


def convnext():
    return ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=5).eval()


@pytest.mark.parametrize("backward", ["gradient", "relevance"])
@pytest.mark.parametrize(
    ("make", "images", "turned"),
    [
        (vit, "patches", ("flatten", "transpose")),
        (convnext, "features.1.0.block.0", ("features.1.0.block.1",)),
    ],
)
def test_a_layer_reads_the_same_in_any_layout(make, images, turned, backward):
    model = split(make().double(), X)
    read = model.read(X, TARGET, [images, *turned], BackwardConfig(backward))
    for layer in turned:
        assert layer in model.layers
        for stream in ("g", "h"):
            assert read[layer][stream].delta_p.abs().max() > 0
            for ours, expected in zip(read[layer][stream], read[images][stream], strict=True):
                assert ours.shape == expected.shape == (2, *expected.shape[1:])
                assert torch.allclose(ours, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("prefix", [1, 5])
def test_tokens_that_are_not_of_the_image_are_left_out(prefix):
    model, seen = vit(prefix=prefix).double(), []
    ours = split(model, X)
    with model.blocks[1].norm1.register_forward_hook(lambda *call: seen.append(call[-1])):
        model(X)
    p, n, delta_p, _ = ours.read(X, TARGET, ["blocks.1.norm1"])["blocks.1.norm1"]["g"]
    assert delta_p.shape == p.shape == (2, 12, 6, 4)
    assert torch.allclose((p - n).flatten(2).mT, seen[0][:, prefix:], atol=1e-12)


@pytest.mark.parametrize(
    ("reads", "layer"), [("class token", "blocks.1.norm1"), ("mean", "getitem_1")]
)
def test_splitcam_reads_the_last_tokens_that_the_head_sees(reads, layer):
    model = split(vit(reads).double(), X)
    assert model.cam_layer == SplitCAM(model).layer == layer
    assert SplitLRP(model).layer == "input"
    maps = SplitCAM(model)(X)
    assert maps.shape == (2, 1, 24, 16)
    assert maps.abs().max() > 0


def test_layers_of_attention_hold_no_image():
    model = split(vit().double(), X)
    inside = [name for name in model.layers if name.startswith("blocks.0.attn.")]
    assert set(inside) == {"blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.attn.reshape_1"}
    without_example = split(vit().double())
    heads = next(
        name for name in without_example.layers if name.endswith("scaled_dot_product_attention")
    )
    with pytest.raises(UnknownNameError, match=r"holds no image, \(2, 2, 25, 6\)"):
        SplitCAM(without_example, heads)(X)


def test_grids_follow_the_size_of_the_images_and_need_no_example():
    known, unknown = split(vit().double(), X), split(vit().double())
    wide = X.transpose(2, 3)
    for images in (X, wide, X[:1, :, :8, :8]):
        maps = SplitCAM(known, "blocks.0.norm1")(images, 1)
        assert maps.shape == (len(images), 1, *images.shape[2:])
        assert torch.equal(SplitCAM(unknown, "blocks.0.norm1")(images, 1), maps)


def test_layers_as_large_as_a_quarter_of_the_image_are_read_as_before():
    model = split(convnext(), X.float())
    assert model.cam_layer == "features.2.0"
    assert SplitCAM(model)(X.float()).shape == (2, 1, 24, 16)
