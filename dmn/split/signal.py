"""A signal of the backward pass: half the difference and half the sum of two sensitivities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmn.rules.base import Slope
from dmn.rules.scaled import is_narrower, power, rescaling

P_ONLY = 1.0  # ratio of a signal of which only the sensitivity to p is of interest


@dataclass(frozen=True)
class StreamGradient:
    """A signal (q, a) in the backward pass, in units of 2**exponent; None for zeros.

    Attributes:
        q: Half the difference of the sensitivities to p and to n. Where a is zero, it is the plain
            gradient, computed by autograd only.
        a: Half their sum; None also where `ratio` says what it is.
        exponent: Exponent of the unit.
        ratio: a as a multiple of q, one for all or one per channel; None if it is no multiple. At
            nodes without n it is 1: only a + q, the sensitivity to p, is of interest.
    """

    q: Tensor | None
    a: Tensor | None
    exponent: int = 0
    ratio: Slope | None = None

    def __add__(self, other: StreamGradient) -> StreamGradient:
        """Add where branches meet."""
        exponent = max(self.exponent, other.exponent)
        left, right = self.to(exponent), other.to(exponent)
        if left.ratio is not None and _are_equal(left.ratio, right.ratio):
            return StreamGradient(_add(left.q, right.q), None, exponent, left.ratio)
        left, right = left.written_out(), right.written_out()
        return StreamGradient(_add(left.q, right.q), _add(left.a, right.a), exponent)

    def written_out(self) -> StreamGradient:
        """Return the same signal without ratio."""
        if self.ratio is None or self.q is None:
            return self
        a = None if _are_equal(self.ratio, 0.0) else self.q * self.ratio
        return StreamGradient(self.q, a, self.exponent)

    def of_p(self) -> StreamGradient:
        """Return the same sensitivity to p, for a node without n."""
        if _are_equal(self.ratio, P_ONLY) or (self.q is None and self.a is None):
            return self
        if self.ratio is not None and self.q is not None:
            return StreamGradient(self.q * ((1 + self.ratio) / 2), None, self.exponent, P_ONLY)
        return StreamGradient(_times(_add(self.q, self.a), 0.5), None, self.exponent, P_ONLY)

    def to(self, exponent: int) -> StreamGradient:
        """Return the same numbers in another unit."""
        return self.times(power(self.exponent - exponent), exponent)

    def times(self, factor: float, exponent: int | None = None) -> StreamGradient:
        """Multiply by a factor, and set the exponent if one is given."""
        exponent = self.exponent if exponent is None else exponent
        return StreamGradient(_times(self.q, factor), _times(self.a, factor), exponent, self.ratio)

    def rescaled(self, dtype: torch.dtype | None = None) -> StreamGradient:
        """Bring the largest magnitude near 1 if it is far from it, in a type if one is given."""
        if self.a is None and self.ratio is None:
            return self
        parts = [part for part in (self.q, self.a) if part is not None]
        return self.to(rescaling(parts, self.exponent, dtype))

    def fitting(self, dtype: torch.dtype) -> StreamGradient:
        """Return this signal in a unit in which a cast does not overflow."""
        if self.a is None and self.ratio is None:
            return self
        (stored, *_) = (part for part in (self.q, self.a) if part is not None)
        return self.rescaled(dtype) if is_narrower(dtype, stored.dtype) else self

    def sensitivities(self) -> tuple[Tensor, Tensor]:
        """Return the sensitivities to p and to n, in the unit of this signal."""
        written = self.written_out()
        q, a = written.q, written.a
        if q is None:
            assert a is not None, "a signal has q or a"
            return a, a
        return (q, -q) if a is None else (a + q, a - q)


def _times(signal: Tensor | None, factor: float) -> Tensor | None:
    return signal if signal is None or factor == 1 else signal * factor


def _add(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def _are_equal(ratio: Slope | None, other: Slope | None) -> bool:
    if isinstance(ratio, float) and isinstance(other, float):
        return ratio == other
    return ratio is other
