"""The layers dmn adds to torch's: input views, activations, and addition as a module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvexConcave(nn.Module):
    """Half the channels `relu(z)`, half `-relu(-z)`: monotone, neither convex nor concave.

    With ReLU alone a network of nonnegative weights is convex in its input; with both kinds it is
    any monotone function.

    Source: Runje & Shankaranarayana, Constrained Monotonic Neural Networks, ICML 2023.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Map pre-activations (B, C, ...) to activations of the same shape."""
        sign = signs(z.new_ones(z.shape[1], *[1] * (z.dim() - 2)))
        return sign * (sign * z).relu()


def signs(ones: Tensor) -> Tensor:
    """Return 1 for convex and -1 for concave channels, the second half of them.

    Channels are not cut in halves, which would undo channels-last.

    Args:
        ones: (C, ...), which is changed.
    """
    ones[(len(ones) + 1) // 2 :] = -1
    return ones


class MaxMinPool2d(nn.Module):
    """Max pooling of the channels that `ConvexConcave` makes convex, min pooling of the others.

    A concave unit measures how much is missing. Its maximum over a window loses that if nothing is
    missing at one position; its minimum keeps it. A max is a monotone OR, a min a monotone AND.

    Args:
        channels: Of the input.
        kernel_size: Side of the windows.
        stride: From window to window; by default they do not overlap.
        padding: Around the image, of values that no window selects.
    """

    sign: Tensor

    def __init__(
        self, channels: int, kernel_size: int = 2, stride: int | None = None, padding: int = 0
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size, stride, padding)
        self.register_buffer("sign", signs(torch.ones(channels, 1, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W')."""
        pooled: Tensor = self.sign * self.pool(self.sign * x)
        return pooled


MONOTONE_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "convex",
    ConvexConcave: "half convex, half concave",
    nn.Hardtanh: "saturating",
}
"""Monotone elementwise activations with value 0 at 0, and their shape."""


class View(nn.Module):
    """What a monotone network sees of an image x in [0, 1].

    The image is padded first, by its background 0, and complemented after, so that the border of
    `1 - x` is 1: zeros there would count as ink.

    Args:
        margin: Pixels of background added on each side, in place of the first convolution's
            padding.
    """

    def __init__(self, margin: int = 0):
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, C or 2C, H + 2 margin, W + 2 margin)."""
        return self.view(F.pad(x, (self.margin,) * 4))

    def view(self, x: Tensor) -> Tensor:
        """Present the padded image."""
        return x

    def extra_repr(self) -> str:
        """Name the margin in the printed network."""
        return f"margin={self.margin}"


class Plain(View):
    """The image as it is."""


class Inverted(View):
    """The complement `1 - x`: a monotone network of it falls where ink is added."""

    def view(self, x: Tensor) -> Tensor:
        """Complement the padded image."""
        return 1 - x


class Paired(View):
    """The image and its complement, `[x, 1 - x]` on the channel axis."""

    def view(self, x: Tensor) -> Tensor:
        """Stack the padded image and its complement."""
        return torch.cat([x, 1 - x], dim=1)


class Opposed(View):
    """The image and its negative, `[x, -x]`; for inputs without upper bound, such as features."""

    def view(self, x: Tensor) -> Tensor:
        """Stack the padded image and its negative."""
        return torch.cat([x, -x], dim=1)


class Add(nn.Module):
    """Add two tensors, as a module that hooks can attach to."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x + y."""
        return x + y


MONOTONE_OPERATIONS: set[type[nn.Module]] = {
    Add,
    View,
    nn.Identity,
    nn.Flatten,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    MaxMinPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.ZeroPad2d,
}
"""Parameter-free modules that are nondecreasing in eval mode; add your own to have it accepted."""
