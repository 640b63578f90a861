"""Boxes of images around an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Box(NamedTuple):
    """All images x with low <= x <= high.

    Attributes:
        low: Lower ends (B, C, H, W).
        high: Upper ends, of the same shape.

    Examples:
        >>> x = torch.rand(1, 1, 4, 4)
        >>> Box(x, x).high.shape
        torch.Size([1, 1, 4, 4])
    """

    low: Tensor
    high: Tensor


def box(
    x: Tensor,
    eps: float | Tensor,
    mask: Tensor | None = None,
    low: float | Tensor = 0.0,
    high: float | Tensor = 1.0,
) -> Box:
    """Return the images that differ from x by at most eps, within a mask, and in a range.

    Args:
        x: Images (B, C, H, W).
        eps: Largest change of a pixel, at least 0; a tensor is broadcast, as by image
            (B, 1, 1, 1). 1 lets pixels in [0, 1] be anything.
        mask: Where pixels may change, (B, 1, H, W) or what can be broadcast to the images: booleans
            or numbers from 0 to 1; None for everywhere.
        low: Least value of a pixel. An image below it keeps its value.
        high: Largest value of a pixel, likewise.

    Examples:
        >>> x = torch.tensor([[[[0.0, 0.5]]]])
        >>> box(x, 0.25)
        Box(low=tensor([[[[0.0000, 0.2500]]]]), high=tensor([[[[0.2500, 0.7500]]]]))
        >>> box(x, 1.0, mask=torch.tensor([[[[True, False]]]]))
        Box(low=tensor([[[[0.0000, 0.5000]]]]), high=tensor([[[[1.0000, 0.5000]]]]))
    """
    change = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    if mask is not None:
        change = change * mask.to(x)
    least = torch.as_tensor(low, dtype=x.dtype, device=x.device)
    largest = torch.as_tensor(high, dtype=x.dtype, device=x.device)
    return Box(
        torch.minimum(x, torch.maximum(x - change, least)),
        torch.maximum(x, torch.minimum(x + change, largest)),
    )
