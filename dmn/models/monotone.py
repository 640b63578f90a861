"""Monotone networks, to serve as g or as h.

All are plain sequences of named layers, so that a state dict reads like the architecture and any
layer can be read by its name.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from dmn.nn import (
    STARTS,
    Constraint,
    ConvexConcave,
    MaxMinPool2d,
    Monotone,
    Start,
    constrained,
    reparametrise,
)

Activation = Literal["convex", "convex_concave", "saturating"]
Pooling = Literal["max", "max_min"]


def _saturating() -> nn.Module:
    return nn.Hardtanh(-1.0, 1.0)


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "convex": nn.ReLU,
    "convex_concave": ConvexConcave,
    "saturating": _saturating,
}
POOLS: dict[Pooling, Callable[..., nn.Module]] = {
    "max": lambda channels, *window: nn.MaxPool2d(*window),
    "max_min": MaxMinPool2d,
}
"""Called with channels, side of the windows and, if they overlap, stride and padding."""


class MonotoneSequence(Monotone, nn.Sequential):
    """Named layers in sequence, with initial weights and a constraint."""

    def __init__(
        self, layers: OrderedDict[str, nn.Module], constraint: Constraint, start: Start
    ) -> None:
        super().__init__(layers)
        self.constraint = constraint
        if constraint == "none":
            return
        for item in constrained(self):
            if item.weight.dim() > 1:
                STARTS[start](item.weight)
        if constraint != "projection":
            reparametrise(self, constraint)


def linear_unit(in_features: int, out_features: int, activation: Activation) -> nn.Sequential:
    """Return a linear layer, batch norm and activation."""
    return nn.Sequential(
        nn.Linear(in_features, out_features, bias=False),
        nn.BatchNorm1d(out_features),
        ACTIVATIONS[activation](),
    )


def classifier(
    channels: int,
    grid: int,
    num_classes: int,
    hidden: Sequence[int] = (),
    activation: Activation = "convex",
) -> OrderedDict[str, nn.Module]:
    """Return what follows the last stage: cells, hidden linear layers, and the linear head."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        cells=nn.AdaptiveAvgPool2d(grid), flatten=nn.Flatten()
    )
    widths = (channels * grid**2, *hidden)
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        layers[f"hidden{index}"] = linear_unit(inputs, outputs, activation)
    layers["head"] = nn.Linear(widths[-1], num_classes)
    return layers


class MonotoneMLP(MonotoneSequence):
    """A monotone multilayer perceptron: linear layer, batch norm, activation; a linear layer last.

    Args:
        in_features: Numbers of an input after flattening, e.g. 2 * 28 * 28 for a paired digit.
        hidden: Width of each hidden layer.
        num_classes: Number of logits.
        activation: "convex" (ReLU), "convex_concave" (half each) or "saturating" (Hardtanh).
        constraint: "projection" (`ProjectNonnegative` projects after each step), a
            reparametrisation "abs", "square", "softplus" or "exp", or "none" for the same network
            without constraint.
        start: "dirac" (identity taps plus positive noise), "log_normal" or "uniform".

    Examples:
        >>> import torch
        >>> from dmn.models import MonotoneMLP
        >>> net = MonotoneMLP(16, hidden=(8,), num_classes=3).eval()
        >>> x = torch.rand(5, 16)
        >>> bool((net(x + 0.1) >= net(x)).all())  # a larger input never lowers a logit
        True
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (256, 256),
        num_classes: int = 10,
        activation: Activation = "convex",
        constraint: Constraint = "projection",
        start: Start = "dirac",
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        widths = (in_features, *hidden)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            layers[f"block{index}"] = linear_unit(inputs, outputs, activation)
        layers["head"] = nn.Linear(widths[-1], num_classes)
        super().__init__(layers, constraint, start)


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, activation; optionally with the input added before the activation.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; equal to those in if residual.
        padding: Zeros added on each side.
        residual: Add the input to the normalised convolution.
        activation: As in `MonotoneConvNet`.
        stride: Of the convolution; 1 if residual.
        kernel: Side of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        padding: int = 1,
        residual: bool = False,
        activation: Activation = "convex",
        stride: int = 1,
        kernel: int = 3,
    ) -> None:
        super().__init__(
            OrderedDict(
                conv=nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False),
                norm=nn.BatchNorm2d(out_channels),
                activation=ACTIVATIONS[activation](),
            )
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        conv, norm, activation = self
        z = norm(conv(x))
        output: Tensor = activation(z + x if self.residual else z)
        return output


class MonotoneConvNet(MonotoneSequence):
    """A monotone convolutional network: stem, stages of 3x3 units between pools, linear head.

    Its layers are `stem`, `stage1_1`, `stage1_2`, ..., `pool1`, ..., `cells`, `flatten`, `head`.
    The stem does not pad, because the view of the pair has added a margin of half the kernel.

    Args:
        in_channels: Channels of the view: those of the image, or twice as many if paired.
        widths: Channels of each stage; the first is also the stem's. A pool of 2 follows each stage
            except the last.
        units: Convolutional units in each stage.
        residual: Add the input of a unit to its output where their channels are equal.
        grid: Cells per side that the head sees, by average pooling to grid x grid; 1 is global
            average pooling, which costs a monotone network much accuracy.
        num_classes: Number of logits.
        activation: "convex" (ReLU), "convex_concave" (half each) or "saturating" (Hardtanh).
        constraint: "projection" (`ProjectNonnegative` projects after each step), a
            reparametrisation "abs", "square", "softplus" or "exp", or "none" for the same network
            without constraint.
        start: "dirac" (identity taps plus positive noise), "log_normal" or "uniform".
        kernel: Side of the stem's convolution; the margin of the pair is half of it. With paired
            inputs only the stem can subtract, so a large kernel helps.
        pool: Between stages: "max", or "max_min", which takes minima of the concave channels.

    Examples:
        >>> import torch
        >>> from dmn.models import MonotoneConvNet
        >>> net = MonotoneConvNet(2, widths=(4, 8), units=1, grid=2, num_classes=3).eval()
        >>> [name for name, _ in net.named_children()]
        ['stem', 'stage1_1', 'pool1', 'stage2_1', 'cells', 'flatten', 'head']
        >>> x = torch.rand(5, 2, 18, 18)
        >>> bool((net(x + 0.1) >= net(x)).all())  # a larger input never lowers a logit
        True
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (24, 48, 48),
        units: int = 2,
        residual: bool = False,
        grid: int = 7,
        num_classes: int = 10,
        activation: Activation = "convex",
        constraint: Constraint = "projection",
        start: Start = "dirac",
        kernel: int = 3,
        pool: Pooling = "max",
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            stem=ConvUnit(in_channels, widths[0], 0, activation=activation, kernel=kernel)
        )
        channels = widths[0]
        for stage, width in enumerate(widths, start=1):
            for unit in range(1, units + 1):
                layers[f"stage{stage}_{unit}"] = ConvUnit(
                    channels, width, residual=residual and channels == width, activation=activation
                )
                channels = width
            if stage < len(widths):
                layers[f"pool{stage}"] = POOLS[pool](channels, 2)
        layers.update(classifier(channels, grid, num_classes))
        super().__init__(layers, constraint, start)
