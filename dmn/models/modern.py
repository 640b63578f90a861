"""Modern networks to compare with: torchvision's ConvNeXt and ViT, made small for small images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

from torch import nn
from torchvision.models import convnext, vision_transformer

from dmn.errors import OptionError

ConvNeXtStem = Literal["patches", "overlapping"]


class ConvNeXt(convnext.ConvNeXt):  # type: ignore[misc]
    """torchvision's ConvNeXt for any number of channels, with a choice of stems.

    Weights below the head are drawn with variance 1 / fan-in. The original's standard deviation,
    0.02 whatever the width, leaves narrow layers all but linear at first.

    Args:
        num_classes: Number of logits.
        widths: Channels of each stage; each but the first halves the sides.
        depths: Blocks of each stage, as many as `widths`; at least two together.
        stem: What divides the image's sides by 4: "patches", the original's 4x4 convolution of
            stride 4 with LayerNorm, or "overlapping", two 3x3 convolutions of stride 2 with
            BatchNorm, and GELU between them. Of images in [0, 1] LayerNorm leaves features that
            hardly differ from image to image, and a short training does not begin to learn.
        in_channels: Channels of the image.
        stochastic_depth: Share of images, from 0 to below 1, that skip the last block in training;
            for those below it falls linearly.
        layer_scale: Factor of each block's result at first, per channel; it is trained.

    Raises:
        OptionError: if there are not as many depths as widths, or fewer than two blocks.

    Examples:
        >>> import torch
        >>> from dmn.models import ConvNeXt
        >>> net = ConvNeXt(num_classes=3, widths=(8, 16), depths=(1, 1), in_channels=1).eval()
        >>> net(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (3, 3, 9, 3),
        stem: ConvNeXtStem = "patches",
        in_channels: int = 3,
        stochastic_depth: float = 0.1,
        layer_scale: float = 1e-6,
    ) -> None:
        if len(widths) != len(depths):
            raise OptionError(
                f"widths has {len(widths)} stages and depths {len(depths)}; give as many of both"
            )
        if sum(depths) < 2:
            raise OptionError(f"depths is {list(depths)}; give at least two blocks")
        stages = zip_longest(widths, widths[1:], depths)
        super().__init__(
            [convnext.CNBlockConfig(*stage) for stage in stages],
            stochastic_depth,
            layer_scale,
            num_classes,
        )
        if stem == "patches":
            self.features[0][0] = nn.Conv2d(in_channels, widths[0], 4, 4)
        else:
            half = widths[0] // 2
            self.features[0] = nn.Sequential(
                nn.Conv2d(in_channels, half, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(half),
                nn.GELU(),
                nn.Conv2d(half, widths[0], 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(widths[0]),
            )
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _initialise(module)


class ViT(vision_transformer.VisionTransformer):  # type: ignore[misc]
    """torchvision's ViT for any number of channels, optionally with a convolutional stem.

    The stem is 3x3 convolutions, each with BatchNorm and ReLU, which halve the sides, and a 1x1
    convolution. Without a stem, patches are projected linearly, as in the original.

    Args:
        num_classes: Number of logits.
        image_size: Sides of the image in pixels.
        patch_size: Sides of the patches; 2 to the power of the stem's layers if there is a stem.
        layers: Number of encoder layers.
        heads: Attention heads of each layer.
        width: Channels of a token, a multiple of `heads`.
        mlp: Hidden units of each layer's MLP.
        stem: Channels of the stem's layers, none for no stem.
        in_channels: Channels of the image.
        dropout: Share of channels that are dropped in training, from 0 to 1.

    Raises:
        OptionError: if `patch_size` does not divide `image_size`, or is not that of the stem; if
            `width` is no multiple of `heads`.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021; for the stem Xiao et al., Early
    Convolutions Help Transformers See Better, 2021.

    Examples:
        >>> import torch
        >>> from dmn.models import ViT
        >>> net = ViT(num_classes=3, image_size=32, patch_size=4, stem=(8, 16), in_channels=1,
        ...           layers=2, heads=2, width=16, mlp=32).eval()
        >>> net(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_size: int = 224,
        patch_size: int = 16,
        layers: int = 12,
        heads: int = 12,
        width: int = 768,
        mlp: int = 3072,
        stem: Sequence[int] = (),
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        if image_size % patch_size:
            raise OptionError(f"patch_size {patch_size} does not divide image_size {image_size}")
        if stem and patch_size != 2 ** len(stem):
            raise OptionError(
                f"patch_size is {patch_size}, but a stem of {len(stem)} layers makes patches of "
                f"{2 ** len(stem)} pixels; give this"
            )
        if width % heads:
            raise OptionError(f"width {width} is no multiple of heads {heads}")
        configs = [vision_transformer.ConvStemConfig(channels, 3, 2) for channels in stem]
        super().__init__(
            image_size,
            patch_size,
            layers,
            heads,
            width,
            mlp,
            dropout,
            num_classes=num_classes,
            conv_stem_configs=configs or None,
        )
        if stem:
            first: Any = self.get_submodule("conv_proj.conv_bn_relu_0")
            first[0] = nn.Conv2d(in_channels, stem[0], 3, 2, padding=1, bias=False)
        else:
            patches = nn.Conv2d(in_channels, width, patch_size, patch_size)
            _initialise(patches)
            self.conv_proj = patches


def _initialise(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights that keep the variance, whatever the width, and no bias."""
    fan_in = layer.weight[0].numel()
    nn.init.trunc_normal_(layer.weight, std=math.sqrt(1 / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
