"""The effective number of directions in a layer's channels."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(activations: Tensor) -> float:
    """Return the effective rank of a layer's channels over images and positions.

    It is the exponential of the entropy of the normalised singular values of the centred
    activations: C if the channels vary equally and independently, 1 if they all vary together.

    Args:
        activations: (B, C, ...), with more than one image or position.

    Returns:
        A number in [1, C], or 0 if nothing varies.

    Source: Roy & Vetterli, The effective rank, EUSIPCO 2007, of the activations about their mean.

    Examples:
        >>> same = torch.randn(100, 1).expand(100, 8)
        >>> round(effective_rank(same), 3), round(effective_rank(torch.eye(8)), 3)
        (1.0, 7.0)
    """
    rows = activations.detach().double().movedim(1, -1).flatten(0, -2)
    rows = rows - rows.mean(dim=0)
    singular = torch.linalg.eigvalsh(rows.T @ rows).clamp(min=0).sqrt()
    if singular.sum() == 0:
        return 0.0
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())
