"""Intervals of tensors, and what linear operations make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Direction = Literal[-1, 0, 1] | None
SPARE = 4  # roundings of an operation beside those of its sum: bias, ends, and our own


class Interval(NamedTuple):
    """The values that a layer can have: low <= value <= high, elementwise.

    Attributes:
        low: Least values.
        high: Largest values, of the same shape.
        direction: 1 if all values are nondecreasing in every input, -1 if all are nonincreasing, 0
            if they are constant, None otherwise. Unless it is None, both ends are attained, at the
            corners of the box of inputs.

    Examples:
        >>> Interval(torch.tensor([-1.0]), torch.tensor([0.5])).magnitude
        tensor([1.])
    """

    low: Tensor
    high: Tensor
    direction: Direction = 1

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def apply(self, function: Callable[[Tensor], Tensor]) -> Interval:
        """Apply a function that is nondecreasing in its input, to both ends."""
        return Interval(function(self.low), function(self.high), self.direction)

    def widened(self, by: Tensor | float) -> Interval:
        """Move both ends outward."""
        return Interval(self.low - by, self.high + by, self.direction)


def flipped(direction: Direction) -> Direction:
    """Return the direction of the negative."""
    return {1: -1, 0: 0, -1: 1, None: None}[direction]


def joined(first: Direction, *others: Direction) -> Direction:
    """Return the direction of values that are nondecreasing in several, or put side by side."""
    for other in others:
        first = other if first == 0 else first if other in (0, first) else None
    return first


def affine(
    box: Interval,
    multiply: Callable[[Tensor, Tensor], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    terms: int,
    eps: float,
) -> Interval:
    """Return the interval of `multiply(x, weight) + bias` for x in a box.

    Args:
        box: Where x is.
        multiply: Linear in x and in the weight.
        weight: In the dtype of the box.
        bias: Added to the product; None for none.
        terms: Number of terms of each sum.
        eps: Machine epsilon of the network's numbers, for outward rounding; 0 for none.
    """
    centre, radius = (box.high + box.low) / 2, (box.high - box.low) / 2
    least, largest = weight.detach().aminmax()
    size = weight.abs()
    middle, spread = multiply(centre, weight), multiply(radius, size)
    rounding: Tensor | float = 0.0
    if eps:
        nonnegative = least >= 0 and bool((box.low >= 0).all())
        whole = middle + spread if nonnegative else multiply(box.magnitude, size)
        rounding = (terms + SPARE) * eps * (whole if bias is None else whole + bias.abs())
    middle = middle if bias is None else middle + bias
    direction = box.direction if least >= 0 else flipped(box.direction) if largest <= 0 else None
    out = Interval(middle - spread, middle + spread, direction if box.direction else box.direction)
    return out.widened(rounding)
