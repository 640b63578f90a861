"""Split networks read where they hold tokens, or channels last."""

import pytest
import torch
from small_transformers import vit
from torch import nn
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


@pytest.mark.parametrize("size", [(24, 16), (48, 32)])  # of which 6 x 4 tokens are a quarter or not
@pytest.mark.parametrize(
    ("reads", "layer"), [("class token", "blocks.1.norm1"), ("mean", "getitem_1")]
)
def test_splitcam_reads_the_last_tokens_that_the_head_sees(reads, layer, size):
    side = size[0] // 6
    model = vit(reads).double()
    model.patches = nn.Conv2d(3, 12, side, side).double()
    images = torch.rand(2, 3, *size).double()
    model = split(model, images)
    assert model.cam_layer == SplitCAM(model).layer == layer
    assert SplitLRP(model).layer == "input"
    maps = SplitCAM(model)(images)
    assert maps.shape == (2, 1, *size)
    assert maps.abs().max() > 0


def test_heads_of_attention_hold_no_image():
    model = split(vit().double(), X)
    inside = {name for name in model.layers if name.startswith("blocks.0.attn.")}
    assert inside == {f"blocks.0.attn.{name}" for name in ("qkv", "flatten", "proj")}
    heads = "blocks.0.attn.scaled_dot_product_attention"
    with pytest.raises(UnknownNameError, match=r"holds no image, \(2, 2, 25, 6\)"):
        model.read(X, TARGET, [heads])


def test_grids_follow_the_size_of_the_images():
    model = split(vit().double(), X)
    for images in (X.transpose(2, 3), X[:1, :, :8, :8], X):
        read = model.read(images, TARGET[: len(images)], ["patches", "transpose", "norm"])
        assert torch.equal(read["transpose"]["g"].p, read["patches"]["g"].p)
        assert read["norm"]["g"].p.shape == read["patches"]["g"].p.shape
        maps = SplitCAM(model)(images, 1)
        assert maps.shape == (len(images), 1, *images.shape[2:])


def test_no_example_is_needed():
    network = convnext().double()
    known, unknown = split(network, X), split(network)
    for layer in ("features.1.0.block.0", "features.1.0.block.1"):
        maps = [SplitCAM(model, layer)(X, TARGET) for model in (known, unknown)]
        assert torch.equal(*maps)


def test_layers_as_large_as_a_quarter_of_the_image_are_read_as_before():
    model = split(convnext(), X.float())
    assert model.cam_layer == "features.2.0"
    assert SplitCAM(model)(X.float()).shape == (2, 1, 24, 16)
