"""Bring maps to the size of what they explain: a signal, an image or a volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of axes


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps by linear interpolation, unless they have the size.

    Args:
        maps: (B, C, L), (B, C, H, W) or (B, C, D, H, W).
        size: What comes after B and C in the result.

    Returns:
        Maps of that size.
    """
    if maps.shape[2:] == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode=_MODES[len(size)], align_corners=False)
