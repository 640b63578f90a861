"""How many directions a layer's channels still tell apart."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(activations: Tensor) -> float:
    """Return the effective rank of a layer's channels over images and places.

    It is exp of the entropy of the covariance's normalised singular values: the number of channels
    if they vary alike and independently, 1 if all of them say the same.

    Args:
        activations: (B, C, ...), B or the places more than one.

    Returns:
        A number in [1, C]; 0 where nothing varies.

    Source: Roy & Vetterli, The effective rank, EUSIPCO 2007, of the activations about their mean.
    """
    rows = activations.detach().double().movedim(1, -1).flatten(0, -2)
    rows = rows - rows.mean(dim=0)
    singular = torch.linalg.eigvalsh(rows.T @ rows).clamp(min=0).sqrt()
    if singular.sum() == 0:
        return 0.0
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())
