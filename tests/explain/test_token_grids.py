"""The grids of real networks: a change of one patch is found in its own cell."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from effort import slow_except
from small_transformers import vit
from torch import nn
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from dmn.explain.layers import find_grids, last_stage
from dmn.nn import Grid


def swin():
    return SwinTransformer([4, 4], 16, [1, 2], [2, 2], [4, 4], num_classes=5)


def convnext():
    return ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=5)


def timm(name, **options):
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=5, **options)


def hugging_face(name, **options):
    def make():
        library = pytest.importorskip("transformers")
        config = getattr(library, f"{name}Config")(**options)
        return getattr(library, f"{name}ForImageClassification")(config)

    return make


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
STAGES = {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]}


class Case(NamedTuple):
    """A network, the size of images, and the grid of a layer before places mix."""

    make: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: str
    grid: Grid


def tokens(sides, prefix):
    return Grid(sides, -1, True, prefix)


NETWORKS = {
    "ViT": Case(vit, (24, 16), "blocks.0.norm1", tokens((6, 4), 1)),
    "registers": Case(lambda: vit(prefix=5), (24, 16), "blocks.0.norm1", tokens((6, 4), 5)),
    "torchvision ViT": Case(
        lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5),
        (32, 32),
        "encoder.layers.encoder_layer_0.ln_1",
        tokens((4, 4), 1),
    ),
    "torchvision Swin": Case(swin, (32, 48), "features.1.0.norm1", Grid((8, 12), -1)),
    "torchvision ConvNeXt": Case(convnext, (32, 48), "features.0", Grid((8, 12))),
    "timm ViT": Case(
        timm("vit_tiny_patch16_224", **PATCHES), (32, 48), "blocks.0.norm1", tokens((4, 6), 1)
    ),
    "timm DeiT": Case(
        timm("deit_tiny_distilled_patch16_224", **PATCHES),
        (32, 48),
        "blocks.0.norm1",
        tokens((4, 6), 2),
    ),
    "timm DINOv2": Case(
        timm("vit_small_patch14_reg4_dinov2", **PATCHES),
        (32, 48),
        "blocks.0.norm1",
        tokens((4, 6), 5),
    ),
    "timm Mixer": Case(
        timm("mixer_s16_224", img_size=(64, 96)),
        (64, 96),
        "blocks.0.norm1",
        tokens((4, 6), 0),
    ),
    "timm BEiT": Case(
        timm("beit_base_patch16_224", **PATCHES), (32, 48), "blocks.0.norm1", tokens((4, 6), 1)
    ),
    "timm Swin": Case(
        timm("swin_tiny_patch4_window7_224", img_size=(32, 48), window_size=4, **STAGES),
        (32, 48),
        "layers.0.blocks.0.norm1",
        Grid((8, 12), -1),
    ),
    "Hugging Face ViT": Case(
        hugging_face("ViT", image_size=32, patch_size=8, **SMALL),
        (32, 32),
        "vit.layers.0.layernorm_before",
        tokens((4, 4), 1),
    ),
    "Hugging Face DINOv2": Case(
        hugging_face("Dinov2WithRegisters", image_size=32, patch_size=8, **SMALL),
        (32, 48),
        "dinov2_with_registers.encoder.layer.0.norm1",
        tokens((4, 6), 5),
    ),
    "Hugging Face Swin": Case(
        hugging_face("Swin", image_size=32, patch_size=4, window_size=4, **STAGES),
        (32, 48),
        "swin.encoder.layers.0.blocks.0.layernorm_before",
        tokens((8, 12), 0),
    ),
}
LAST = {
    "torchvision Swin": "permute",
    "torchvision ConvNeXt": "features",
    "timm ViT": "blocks.1.norm1",
    "timm DeiT": "blocks.1.norm1",
    "timm DINOv2": "blocks.1.norm1",
    "timm Mixer": "norm",
    "timm BEiT": "norm",  # whose head reads the mean
    "timm Swin": "norm",
    "Hugging Face ViT": "vit.layers.1.layernorm_before",
    "Hugging Face DINOv2": "dinov2_with_registers.layernorm",  # class token and mean
    "Hugging Face Swin": "swin.layernorm",
}
QUICK = {"ViT", "registers", "torchvision ViT", "torchvision Swin", "torchvision ConvNeXt"}


def output(model, layer, x):
    """Return what a layer returns."""
    seen = []
    with model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[-1])):
        model(x)
    return seen[-1]


@pytest.mark.parametrize("name", slow_except(QUICK, NETWORKS))
@torch.no_grad()
def test_a_patch_is_found_in_its_cell(name):
    make, size, layer, grid = NETWORKS[name]
    model, x = make().eval(), torch.rand(1, 3, *size)
    assert find_grids(model, x)[layer] == grid
    side = size[0] // grid.sides[0]
    before = grid.to_image(output(model, layer, x))
    for row, column in ((1, grid.sides[1] - 1), (grid.sides[0] - 1, 2)):
        changed = x.clone()
        changed[..., side * row : side * (row + 1), side * column : side * (column + 1)] += 1
        difference = (grid.to_image(output(model, layer, changed)) - before).abs().sum(1)[0]
        assert difference[row, column] > 1e-3
        difference[row, column] = 0
        assert difference.max() < 1e-6


@pytest.mark.parametrize("name", slow_except(QUICK & LAST.keys(), LAST))
def test_the_last_layer_that_the_head_sees(name):
    make, size, *_ = NETWORKS[name]
    assert last_stage(make().eval(), torch.rand(1, 3, *size)) == LAST[name]


def test_layers_without_places_hold_no_image():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert find_grids(model, torch.rand(1, 3, 2, 2)) == {"0": None, "1": None, "": None}
