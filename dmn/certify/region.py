"""What a change of a region of an image can do to its class, at worst."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dmn.certify.bounds import certain, guaranteed_margin
from dmn.certify.box import box
from dmn.errors import OptionError

STEPS = 12  # of bisection: to within 1 / 4096 of the largest change
BATCH = 64  # boxes at once


@torch.no_grad()
def least_change(
    net: nn.Module,
    x: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    largest: float = 1.0,
) -> Tensor:
    """Return how far a region can change for certain before the image can lose its class.

    No change of the region's pixels by at most this much takes the class away. It is found by
    bisection, to within 1 / 4096 of the largest change, and rounded down.

    Args:
        net: As for `bounds`.
        x: Images (B, C, H, W) in [0, 1].
        target: Class indices (B,), e.g. those that are predicted.
        mask: The region, as for `box`; None for the whole image.
        largest: Largest change that is tried. At 1 pixels can be anything in [0, 1].

    Returns:
        (B,), in [0, largest]; 0 also where the class is not predicted at all, and `largest` where
        nothing in the region can take the class away.

    Examples:
        >>> net = dmn.load("mnist_inverted").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> change = least_change(net, x, net(x).argmax(1))
        >>> certain(net, *box(x, change[:, None, None, None])).tolist()
        [True, True]
    """
    if not largest > 0:
        raise OptionError(f"largest is {largest}; give a number above 0")
    shape = (-1, *[1] * (x.dim() - 1))
    least = x.new_zeros(len(x))
    untested = x.new_full((len(x),), largest)
    holds = certain(net, *box(x, untested.reshape(shape), mask), target)
    least = torch.where(holds, untested, least)
    for _ in range(STEPS):
        middle = (least + untested) / 2
        holds = certain(net, *box(x, middle.reshape(shape), mask), target)
        least = torch.where(holds, middle, least)
        untested = torch.where(holds, untested, middle)
    return least


@torch.no_grad()
def certified_map(
    net: nn.Module, x: Tensor, target: Tensor, eps: float = 1.0, cell: int = 4
) -> Tensor:
    """Return for each cell of pixels how far the guaranteed margin falls if that cell may change.

    Exact statements, one for each cell: if its pixels alone change, each by at most eps, then the
    class's logit still exceeds all others by the margin at the image minus this number.

    Args:
        net: As for `bounds`.
        x: Images (B, C, H, W) in [0, 1].
        target: Class indices (B,).
        eps: Largest change of a pixel, in [0, 1]; at 1 pixels can be anything.
        cell: Side of the cells in pixels.

    Returns:
        (B, 1, H, W), at least 0, the same for all pixels of a cell.

    Raises:
        OptionError: if eps is negative, or the side of the cells is not positive.

    Examples:
        >>> net = dmn.load("mnist_inverted").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> certified_map(net, x, net(x).argmax(1), cell=14).shape
        torch.Size([2, 1, 28, 28])
    """
    if not eps >= 0 or cell < 1:
        raise OptionError(f"eps is {eps} and cell {cell}; give at least 0 and at least 1")
    height, width = x.shape[-2:]
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    numbers = torch.arange(rows * columns, device=x.device).reshape(rows, columns)
    labels = numbers.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
    whole = guaranteed_margin(net, x, x, target)
    falls = []
    for cells in torch.split(numbers.flatten(), max(1, BATCH // len(x))):
        masks = (labels == cells[:, None, None]).repeat_interleave(len(x), 0)[:, None]
        ends = box(x.repeat(len(cells), *[1] * (x.dim() - 1)), eps, masks)
        margins = guaranteed_margin(net, *ends, target.repeat(len(cells)))
        falls.append(whole - margins.reshape(len(cells), len(x)))
    fall = torch.cat(falls).T.clamp(min=0)
    return fall[:, labels][:, None].to(x.dtype)
