"""Initialisation of nonnegative weights.

Dense positive rows all compute nearly the same mean, so depth collapses every channel into one
(Perron-Frobenius), and batch normalisation does not help. An identity tap in every row does:
the Dirac start is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Start = Literal["dirac", "log_normal", "uniform"]
"""The name of an initialisation of nonnegative weights; see `STARTS`."""


@torch.no_grad()
def dirac_positive_(weight: Tensor, mass: float = 0.2) -> None:
    """Initialise with one identity tap per row plus small positive noise.

    Output channel o reads the centre of input channel o modulo the number of input channels.

    Args:
        weight: (out, in, *kernel), overwritten.
        mass: Expected sum of the noise in a row; the tap is 1.
    """
    outputs, inputs = weight.shape[:2]
    weight.uniform_(0.0, 2.0 * mass / weight[0].numel())
    centre = math.prod(weight.shape[2:]) // 2
    rows = torch.arange(outputs, device=weight.device)
    weight.view(outputs, inputs, -1)[rows, rows % inputs, centre] += 1.0


@torch.no_grad()
def log_normal_(weight: Tensor, correlation: float = 0.5) -> None:
    """Initialise with log-normal weights that keep variance and correlation from layer to layer.

    Holds for ReLU units after centred pre-activations; batch normalisation does the centring.

    Args:
        weight: (out, in, *kernel), overwritten.
        correlation: Correlation of two pre-activations of a layer that is kept, in (0, 1).

    Source: Hoedt & Klambauer, Principled Weight Initialisation for Input-Convex Neural Networks,
    NeurIPS 2023.
    """
    fan_in = weight[0].numel()
    kernel = math.sqrt(1 - correlation**2) + correlation * math.acos(-correlation)
    diagonal, shared = (math.pi - 1) / (2 * math.pi), (kernel - 1) / (2 * math.pi)
    variance_of_sum = fan_in * (diagonal + (fan_in - 1) * shared)
    mean_squared = correlation / variance_of_sum
    variance = 2 * (1 - correlation) / fan_in
    log_variance = math.log1p(variance / mean_squared)
    weight.log_normal_(0.5 * (math.log(mean_squared) - log_variance), math.sqrt(log_variance))


@torch.no_grad()
def uniform_(weight: Tensor) -> None:
    """Initialise with uniform weights of expected row sum 1.

    Args:
        weight: (out, in, *kernel), overwritten.
    """
    weight.uniform_(0.0, 2.0 / weight[0].numel())


STARTS: dict[Start, Callable[[Tensor], None]] = {
    "dirac": dirac_positive_,
    "log_normal": log_normal_,
    "uniform": uniform_,
}
"""Initialisations of nonnegative weights by name; each overwrites a weight in place."""
