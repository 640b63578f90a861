"""The rank correlation of rows of numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def average_ranks(values: Tensor) -> Tensor:
    """Return the ranks of each row's values; equal values share the mean of their ranks.

    Args:
        values: (B, N).

    Returns:
        From 1 for the lowest to N, (B, N), float64.
    """
    ranks = torch.empty(values.shape, dtype=torch.float64, device=values.device)
    for row, out in zip(values, ranks, strict=True):
        _, place, count = torch.unique(row, return_inverse=True, return_counts=True)
        out[:] = (count.cumsum(0) - (count - 1) / 2.0)[place]
    return ranks


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each row of `a` with that of `b`.

    Equal values share the mean of their ranks. A constant row has no order: its correlation is 1
    with another constant row, and 0 with all others.

    Args:
        a: Finite numbers, (B, ...).
        b: Of the same shape.

    Returns:
        From -1 to 1, (B,), float64; NaN for rows that are not finite.

    Source: Spearman 1904, "The proof and measurement of association between two things".
    """
    a, b = a.flatten(1), b.flatten(1)
    finite = a.isfinite().all(dim=1) & b.isfinite().all(dim=1)
    first, second = (average_ranks(rows) for rows in (a, b))
    first, second = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (first, second))
    squares = first.square().sum(dim=1), second.square().sum(dim=1)
    scale = (squares[0] * squares[1]).sqrt()
    correlation = (first * second).sum(dim=1) / scale.clamp(min=0.5)  # 0.5 or more unless constant
    both_constant = (squares[0] == 0) & (squares[1] == 0)
    correlation = torch.where(both_constant, 1.0, correlation.clamp(-1, 1))
    return torch.where(finite, correlation, torch.nan)
