"""Deep monotone backbones, to serve as g or as h: VGG and ResNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from dmn.models.monotone import (
    ACTIVATIONS,
    POOLS,
    Activation,
    ConvUnit,
    MonotoneSequence,
    Pooling,
    classifier,
)
from dmn.models.ordinary import FULL_WIDTH
from dmn.nn import Constraint, Start

Stem = Literal["imagenet", "small", "tiny"]
STEMS: dict[Stem, tuple[int, int]] = {"imagenet": (7, 2), "small": (3, 2), "tiny": (3, 1)}
WIDEST = 8  # times the first stage's channels


class ResidualBlock(nn.Module):
    """Two convolutional units, the input added before the last activation.

    Where the channels change, the input passes through a 1x1 convolution and batch norm.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        activation: As in `MonotoneResNet`.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: Activation) -> None:
        super().__init__()
        self.unit = ConvUnit(in_channels, out_channels, activation=activation)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            widening = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(widening, nn.BatchNorm2d(out_channels))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        z = self.norm(self.conv(self.unit(x))) + self.shortcut(x)
        output: Tensor = self.activation(z)
        return output


class MonotoneResNet(MonotoneSequence):
    """A monotone ResNet; the default is as deep as ResNet-18.

    Its layers are `stem`, `stage1_1`, `stage1_2`, `pool1`, ..., `cells`, `flatten`, `head`. Max
    pooling between the stages halves the sides, where the original has strides.

    Args:
        in_channels: Channels of the view: those of the image, or twice as many if paired.
        width: Channels of the first stage. Each stage doubles them, to at most 8 times as many.
        blocks: Residual blocks of two convolutions in each stage.
        stem: "imagenet" divides the sides by 4 (7x7 convolution, for a pair of margin 3, and max
            pooling), "small" by 2 (3x3 convolution, margin 1), "tiny" keeps them.
        grid: Cells per side that the head sees.
        num_classes: Number of logits.
        activation: "convex" (ReLU), "convex_concave" (half each) or "saturating" (Hardtanh).
        constraint: As in `MonotoneConvNet`.
        start: "dirac" (identity taps plus positive noise), "log_normal" or "uniform".
        kernel: Side of the stem's convolution; None for the stem's own. The margin of the pair is
            half of it. With paired inputs only the stem can subtract, so a large kernel helps.
        templates: Channels of the stem; None for `width`.
        pool: As in `MonotoneConvNet`.

    Examples:
        >>> import torch
        >>> from dmn.models import MonotoneResNet
        >>> net = MonotoneResNet(2, width=4, blocks=(1, 1), stem="tiny", num_classes=3).eval()
        >>> net(torch.rand(5, 2, 18, 18)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_channels: int,
        width: int = FULL_WIDTH,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem: Stem = "imagenet",
        grid: int = 1,
        num_classes: int = 10,
        activation: Activation = "convex",
        constraint: Constraint = "projection",
        start: Start = "dirac",
        kernel: int | None = None,
        templates: int | None = None,
        pool: Pooling = "max",
    ) -> None:
        stem_kernel, stride = STEMS[stem]
        channels = templates or width
        first = ConvUnit(in_channels, channels, 0, False, activation, stride, kernel or stem_kernel)
        layers: OrderedDict[str, nn.Module] = OrderedDict(stem=first)
        if stem == "imagenet":
            layers["pool"] = POOLS[pool](channels, 3, 2, 1)
        for stage, count in enumerate(blocks, start=1):
            stage_width = min(2 ** (stage - 1), WIDEST) * width
            for block in range(1, count + 1):
                layers[f"stage{stage}_{block}"] = ResidualBlock(channels, stage_width, activation)
                channels = stage_width
            if stage < len(blocks):
                layers[f"pool{stage}"] = POOLS[pool](channels, 2)
        layers.update(classifier(channels, grid, num_classes))
        super().__init__(layers, constraint, start)


class MonotoneVGG(MonotoneSequence):
    """A monotone VGG: convolutional units, max pools, then linear layers; 18 layers by default.

    Its layers are `stem`, `stage1_2`, ..., `pool1`, `stage2_1`, ..., `cells`, `flatten`, `hidden1`,
    ..., `head`.

    Args:
        in_channels: Channels of the view: those of the image, or twice as many if paired.
        width: Channels of the first stage. Each stage doubles them, to at most 8 times as many.
        units: Convolutional units in each stage; the first unit of the first stage is the stem.
        hidden: Width of each hidden linear layer.
        grid: Cells per side that the first linear layer sees.
        num_classes: Number of logits.
        activation: "convex" (ReLU), "convex_concave" (half each) or "saturating" (Hardtanh).
        constraint: As in `MonotoneConvNet`.
        start: "dirac" (identity taps plus positive noise), "log_normal" or "uniform".
        pool: As in `MonotoneConvNet`.

    Examples:
        >>> import torch
        >>> from dmn.models import MonotoneVGG
        >>> net = MonotoneVGG(2, width=4, units=(2, 1), hidden=(8,), num_classes=3).eval()
        >>> net(torch.rand(5, 2, 18, 18)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_channels: int,
        width: int = FULL_WIDTH,
        units: Sequence[int] = (2, 2, 4, 4, 4),
        hidden: Sequence[int] = (512,),
        grid: int = 1,
        num_classes: int = 10,
        activation: Activation = "convex",
        constraint: Constraint = "projection",
        start: Start = "dirac",
        pool: Pooling = "max",
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for stage, count in enumerate(units, start=1):
            stage_width = min(2 ** (stage - 1), WIDEST) * width
            for unit in range(1, count + 1):
                name = f"stage{stage}_{unit}" if layers else "stem"
                layers[name] = ConvUnit(
                    channels, stage_width, int(bool(layers)), activation=activation
                )
                channels = stage_width
            if stage < len(units):
                layers[f"pool{stage}"] = POOLS[pool](channels, 2)
        layers.update(classifier(channels, grid, num_classes, hidden, activation))
        super().__init__(layers, constraint, start)
