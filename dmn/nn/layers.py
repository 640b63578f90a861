"""The layers dmn adds to torch's: input views, activations, and addition as a module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvexConcave(nn.Module):
    """Apply `relu(z)` to the first half of the channels and `-relu(-z)` to the second half.

    With ReLU alone, a network of nonnegative weights is convex in its input. With both kinds it can
    be any monotone function.

    Source: Runje & Shankaranarayana, Constrained Monotonic Neural Networks, ICML 2023.

    Examples:
        >>> ConvexConcave()(torch.tensor([[-1.0, 2.0, -3.0]]))
        tensor([[ 0.,  2., -3.]])
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
    """Max pooling of the first half of the channels, min pooling of the second half.

    It follows `ConvexConcave`, whose second half is concave. A concave unit measures how much is
    missing: its maximum over a window loses that if nothing is missing at one position, and its
    minimum keeps it. A maximum is a monotone OR, a minimum a monotone AND.

    Args:
        channels: Number of channels of the input.
        kernel_size: Side of the windows.
        stride: Distance between windows; by default they do not overlap.
        padding: Pixels on each side, of values that no window selects.

    Examples:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(1, 2, 2, 2)
        >>> MaxMinPool2d(channels=2)(x).flatten().tolist()
        [4.0, 1.0]
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
"""The monotone elementwise activations with value 0 at 0, and their shapes."""


class View(nn.Module):
    """Base class of what a monotone network sees of an image x in [0, 1]; override `view`.

    The image is first padded by its background 0 and then complemented, so that the border of
    `1 - x` is 1. Zeros there would count as ink.

    Args:
        margin: Pixels of background added on each side. They replace the padding of the first
            convolution.

    Examples:
        >>> class Doubled(View):
        ...     def view(self, x):
        ...         return 2 * x
        >>> Doubled(margin=1)(torch.ones(1, 1, 1, 1))
        tensor([[[[0., 0., 0.],
                  [0., 2., 0.],
                  [0., 0., 0.]]]])
    """

    def __init__(self, margin: int = 0):
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, C or 2C, H + 2 margin, W + 2 margin)."""
        return self.view(F.pad(x, (self.margin,) * 4))

    def view(self, x: Tensor) -> Tensor:
        """Return what the network sees of the padded image."""
        return x

    def crop(self, x: Tensor) -> Tensor:
        """Remove the margin from what the network sees."""
        return F.pad(x, (-self.margin,) * 4)

    def extra_repr(self) -> str:
        """Name the margin in the printed network."""
        return f"margin={self.margin}"


class Plain(View):
    """The image as it is.

    Examples:
        >>> Plain(margin=2)(torch.rand(8, 1, 28, 28)).shape
        torch.Size([8, 1, 32, 32])
    """


class Inverted(View):
    """The complement `1 - x`; a network that is monotone in it falls where ink is added.

    Examples:
        >>> Inverted(margin=1)(torch.tensor([[[[0.25]]]]))
        tensor([[[[1.0000, 1.0000, 1.0000],
                  [1.0000, 0.7500, 1.0000],
                  [1.0000, 1.0000, 1.0000]]]])
    """

    def view(self, x: Tensor) -> Tensor:
        """Complement the padded image."""
        return 1 - x


class Paired(View):
    """The image and its complement `[x, 1 - x]`, along the channels.

    Examples:
        >>> Paired()(torch.tensor([[[[0.25, 1.0]]]])).flatten(1)
        tensor([[0.2500, 1.0000, 0.7500, 0.0000]])
    """

    def view(self, x: Tensor) -> Tensor:
        """Stack the padded image and its complement."""
        return torch.cat([x, 1 - x], dim=1)


class Opposed(View):
    """The input and its negative `[x, -x]`, along the channels; for features without upper bound.

    Examples:
        >>> Opposed()(torch.tensor([[[[0.25, 1.0]]]])).flatten(1)
        tensor([[ 0.2500,  1.0000, -0.2500, -1.0000]])
    """

    def view(self, x: Tensor) -> Tensor:
        """Stack the padded image and its negative."""
        return torch.cat([x, -x], dim=1)


class Add(nn.Module):
    """Add two tensors, as a module that hooks can attach to.

    Examples:
        >>> Add()(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
        tensor([11., 22.])
    """

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
"""The modules without parameters that are nondecreasing in eval mode; add your own to the set."""
