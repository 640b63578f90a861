"""Arithmetic of tensors kept in units of a power of two, so that no depth overflows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dmn.nn.observed import observed

BLOCK = 2**16  # numbers for each thread, so that a few tensors stay in its cache


class Scaled(NamedTuple):
    """A tensor in units of 2**exponent; powers of two change no digit.

    Attributes:
        tensor: The digits.
        exponent: One for the whole batch.
    """

    tensor: Tensor
    exponent: int = 0

    @property
    def unit(self) -> float:
        """The number 1 in this unit."""
        return power(-self.exponent)

    def to(self, exponent: int) -> Scaled:
        """Return the same numbers in another unit."""
        if exponent == self.exponent:
            return self
        return Scaled(self.tensor * power(self.exponent - exponent), exponent)

    def rescaled(self, dtype: torch.dtype | None = None) -> Scaled:
        """Bring the largest magnitude near 1 if one more layer might overflow or vanish.

        Args:
            dtype: The type to compute in; by default the tensor's.
        """
        return self.to(rescaling([self.tensor], self.exponent, dtype))


def power(exponent: int) -> float:
    """Return 2**exponent; 0 where that is too small for a float."""
    return math.ldexp(1.0, max(exponent, -1075))


def rescaling(tensors: Sequence[Tensor], exponent: int, dtype: torch.dtype | None = None) -> int:
    """Return an exponent, shared by the tensors, at which one more layer of a type is safe."""
    size = max(map(magnitude, tensors))
    limit = power(3 * _exponents(dtype or tensors[0].dtype) // 8)
    if 1 / limit < size < limit or size == 0 or not math.isfinite(size):
        return exponent
    return exponent + math.frexp(size)[1]


def settle(parts: Sequence[Scaled]) -> list[Tensor]:
    """Return the tensors in units of 1 or, if one does not fit, all in units of a power of two.

    The values are at most 2 to the power of 2/5 of the dtype's largest exponent, so that sums of
    products of two such tensors fit.
    """
    exponent = 0
    for part in parts:
        size = magnitude(part.tensor)
        if size and math.isfinite(size):
            limit = 2 * _exponents(part.tensor.dtype) // 5
            exponent = max(exponent, part.exponent + math.frexp(size)[1] - limit)
    return [part.to(exponent).tensor for part in parts]


def add_scaled(x: Tensor, factor: float | Tensor, y: Tensor) -> Tensor:
    """Return x + factor y, in one pass where the type of x holds the factor."""
    if isinstance(factor, Tensor) or abs(factor) > torch.finfo(x.dtype).max:
        return x + factor * y
    return torch.add(x, y, alpha=factor)


def aligned(parts: Sequence[Scaled]) -> tuple[list[Tensor], int]:
    """Return tensors in one unit, the largest among theirs, and its exponent."""
    exponent = max(part.exponent for part in parts)
    return [part.to(exponent).tensor for part in parts], exponent


def magnitude(tensor: Tensor) -> float:
    """Return the largest absolute value; of an empty tensor 0."""
    return observed(lambda: _magnitude(tensor))


def _magnitude(tensor: Tensor) -> float:
    if not tensor.numel():
        return 0.0
    smallest, largest = torch.aminmax(tensor.detach())
    return max(float(largest), -float(smallest))


def blockwise(
    function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, size: int | None = None
) -> tuple[Tensor, ...]:
    """Apply elementwise operations piece by piece, so that each piece stays in the cache.

    Args:
        function: Takes and returns tensors of one shape.
        *tensors: Of one shape.
        size: Numbers per piece; by default `BLOCK` for each thread.
    """
    size = size or BLOCK * torch.get_num_threads()
    count = tensors[0].numel()
    in_one_piece = is_symbolic(count) or tensors[0].device.type != "cpu" or count <= size
    if in_one_piece or any(tensor.requires_grad for tensor in tensors):
        return function(*tensors)
    pieces = zip(*(torch.split(tensor.reshape(-1), size) for tensor in tensors), strict=True)
    results: list[Tensor] = []
    for start, piece in enumerate(pieces):
        for index, part in enumerate(function(*piece)):
            if not start:
                results.append(torch.empty_like(tensors[0]).contiguous())
            results[index].view(-1)[start * size : start * size + len(part)] = part
    return tuple(results)


def halves(s: Scaled, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the streams p and n, in the unit of s."""
    u = u if s.exponent == 0 else u * s.unit
    return ((s.tensor + u) / 2).clamp_(min=0), ((s.tensor - u) / 2).clamp_(min=0)


def recentred(s: Scaled, u: Tensor, theta: float, threshold: float) -> Scaled:
    """Keep a share of what p and n have in common, where their sum exceeds a threshold."""
    if theta == 1:
        return s
    if theta == 0 and threshold == 0:
        return Scaled(u.abs())
    return Scaled(recentred_sum(s.tensor, u, s.unit, theta, threshold), s.exponent)


def recentred_sum(s: Tensor, u: Tensor, unit: float, theta: float, threshold: float) -> Tensor:
    """Return what `recentred` makes of a sum stream, in its own unit."""
    reduced = torch.lerp(u.abs() * unit, s, theta)
    return torch.where(s > threshold * unit, reduced, s)


def is_narrower(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Return whether a type does not hold all magnitudes that another holds."""
    return dtype != other and _exponents(dtype) < _exponents(other)


def is_symbolic(count: int | torch.SymInt) -> bool:
    """Return whether a number stands for any, as in a trace for any number of images."""
    return isinstance(count, torch.SymInt)


def _exponents(dtype: torch.dtype) -> int:
    return math.frexp(torch.finfo(dtype).max)[1]
