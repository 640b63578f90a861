"""The elementwise operations of relevance, on pieces of tensors; `torch.compile` can fuse them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmn.errors import UnsupportedError
from dmn.rules.base import Slope, activation_sum
from dmn.rules.scaled import add_scaled, recentred_sum

Signal = tuple[Tensor, Tensor]  # q and a
Recentring = tuple[float, float]  # theta and threshold


class Divisor(NamedTuple):
    """What a stream's relevance is divided by, beside the stream.

    Attributes:
        k: 1 - 2 alpha.
        floor: Added to each denominator, in the unit.
        unit: The number 1 in the unit of the sum stream.
    """

    k: float
    floor: float
    unit: float


class Slopes(NamedTuple):
    """The slopes of an activation, in [-low, high], and its value at 0; 0.0 if it is 0 by rule."""

    low: Slope
    high: Slope
    at_zero: Slope


def check_compiler() -> None:
    """Compile a small function.

    Raises:
        UnsupportedError: if `torch.compile` fails; gives its reason.
    """
    try:
        compiled(rebalanced)(*torch.ones(4, 8), divisor=Divisor(0.5, 1e-6, 1.0))
    except Exception as error:  # whatever its backend raises
        reason = str(error).splitlines()[0]
        raise UnsupportedError(
            f"torch.compile fails: {reason}; it needs a C++ compiler or, for a GPU, "
            "Triton. Without it SplitLRP computes the same maps in more time"
        ) from error


@cache
def compiled(function: Callable[..., Signal]) -> Callable[..., Signal]:
    """Return a function compiled by `torch.compile`, once for all shapes."""
    fused = torch.compile(function, dynamic=True)

    def flat(*tensors: Tensor, **constants: Any) -> Signal:
        # Not as views, whose bases have shapes for which it would be compiled again.
        q, a = fused(*(tensor.reshape(-1).detach() for tensor in tensors), **constants)
        return q.view(tensors[0].shape), a.view(tensors[0].shape)

    return flat


def rebalanced(q: Tensor, a: Tensor, u: Tensor, s: Tensor, divisor: Divisor) -> Signal:
    """Return a signal that is shifted and divided; see `dmn.split.relevance.rebalance`."""
    k, floor, unit = divisor
    sign, size = _sign(u), u.abs()
    size = size if unit == 1 else size.mul_(unit)
    larger, smaller = (s + size).clamp_(min=0), (s - size).clamp_(min=0)  # doubled streams
    q = q * sign
    own, other = (a + q).mul_(larger), (a - q).mul_(smaller)
    own = own.add_(other * (1 - k)).div_((s * k).add_(size).add_(floor).mul_(2))
    other = other.mul_(k / 2).div_(smaller + floor)
    q = (own - other).mul_(sign)
    return q, own.mul_(k).add_(other)


def activation_back(
    q: Tensor,
    a: Tensor,
    u: Tensor,
    out: Tensor,
    s: Tensor,
    slopes: Slopes,
    divisor: Divisor,
    recentring: Recentring,
) -> Signal:
    """Propagate a signal back through recentring and, by the secant, an activation; shift it.

    Args:
        q: Half the difference of relevance divided by activation, of p and of n.
        a: Half the sum.
        u: Input of the activation.
        out: Its output.
        s: Sum stream of the input.
        slopes: Of the activation.
        divisor: Of the shift at the input.
        recentring: Theta and threshold.
    """
    low, high, at_zero = slopes
    q, a = before_recentring(
        q, a, activation_sum(u, out, s, *slopes, divisor.unit), out, divisor.unit, recentring
    )
    rise = out - at_zero if isinstance(at_zero, Tensor) else out
    slope = rise / _sign(u).mul_(u.abs().clamp_(min=torch.finfo(u.dtype).tiny))
    q = (q + a).mul_(slope)  # p's; the slope is 0 at 0
    return rebalanced(add_scaled(q, low - high, a), a * (low + high), u, s, divisor)


def scaling_back(
    q: Tensor,
    a: Tensor,
    u: Tensor,
    out: Tensor,
    s: Tensor,
    factor: Tensor,
    divisor: Divisor,
    recentring: Recentring,
) -> Signal:
    """Propagate a signal back through recentring and out = factor u + constant; shift it.

    Args:
        q: Half the difference of relevance divided by activation, of p and of n.
        a: Half the sum.
        u: The input.
        out: The output.
        s: Sum stream of the input.
        factor: Of each number.
        divisor: Of the shift at the input.
        recentring: Theta and threshold.
    """
    size, constant = factor.abs(), torch.addcmul(out, factor, u, value=-1).abs_()
    total = add_scaled(size * s, divisor.unit, constant)
    q, a = before_recentring(q, a, total, out, divisor.unit, recentring)
    return rebalanced(q * factor, a * size, u, s, divisor)


def before_recentring(
    q: Tensor, a: Tensor, s: Tensor, u: Tensor, unit: float, recentring: Recentring
) -> Signal:
    """Return the signal before recentring, which keeps relevance.

    Args:
        q: Half the difference of relevance divided by activation, of p and of n.
        a: Half the sum.
        s: The sum stream before recentring.
        u: The activation.
        unit: The number 1 in the unit of s.
        recentring: Theta and threshold.
    """
    if recentring == (0.0, 0.0):
        return _before_least(q, a, s, u, unit)
    if recentring[0] == 1:
        return q, a
    after = recentred_sum(s, u, unit, *recentring)
    p = (a + q).mul_(_share(_doubled(after, u, unit), _doubled(s, u, unit)))
    n = (a - q).mul_(_share(_doubled(after, u, -unit), _doubled(s, u, -unit)))
    return (p - n).mul_(0.5), p.add_(n).mul_(0.5)


def _before_least(q: Tensor, a: Tensor, s: Tensor, u: Tensor, unit: float) -> Signal:
    """Do this where one stream is left, |u|; it gets the other's share of relevance, too."""
    size, sign = u.abs(), u.sign()
    size = size if unit == 1 else size.mul_(unit)
    share = size.div_((s + size).clamp_(min=torch.finfo(u.dtype).tiny))
    a = torch.addcmul(a, q, sign).mul_(share)
    return a * sign, a


def _sign(u: Tensor) -> Tensor:
    """Return the sign, 1 at 0; `torch.where` takes ten times as long."""
    return u.sign().add_(0.5).sign_()


def _share(after: Tensor, before: Tensor) -> Tensor:
    return after.div_(before.clamp_(min=torch.finfo(before.dtype).tiny))


def _doubled(s: Tensor, u: Tensor, unit: float) -> Tensor:
    """Return twice the stream p, or n where the unit is negative, in the unit of s."""
    return add_scaled(s, unit, u).clamp_(min=0)
