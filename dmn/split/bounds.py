"""Bounds of a split network over a box of images, by its streams."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from dmn.certify import Bounds
from dmn.errors import UnsupportedError
from dmn.rules.scaled import Scaled, aligned


@torch.no_grad()
def stream_bounds(model: Any, low: Tensor, high: Tensor) -> Bounds:
    """Return g(low) - h(high) and g(high) - h(low) of a split network; see `SplitModel.bounds`."""
    if model.held or not model.claims(low[:1])[0]:
        raise UnsupportedError(
            f"cannot bound the split {model.name} by its streams, in which g and h are not "
            f"monotone: {_reason(model)}; bound its operations by dmn.certify.bounds"
        )
    double: Any = deepcopy(model).double()
    low, high = low.double(), high.double()
    least = double.ends(low.clamp(min=0), (-high).clamp(min=0))
    largest = double.ends(high.clamp(min=0), (-low).clamp(min=0))
    upper, lower = _difference(largest[0], least[1]), _difference(least[0], largest[1])
    return Bounds(lower, upper, exact=False)


def _difference(one: Scaled, other: Scaled) -> Tensor:
    (first, second), exponent = aligned([one, other])
    return Scaled(first - second, exponent).to(0).tensor


def _reason(model: Any) -> str:
    """Say why g and h are not monotone, and how they would be."""
    if model.held:
        return f"{len(model.held)} of its operations have coefficients held at the image"
    theta, pool = model.options.theta, model.options.pool
    return f"theta is {theta:g} and pool is {pool}; split it with theta=1 and pool='convex'"
