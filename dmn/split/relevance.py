"""What relevance needs besides derivatives: the shift, secants, and recentring.

A signal (q, a) is then relevance divided by activation: linear operations treat it as they treat
sensitivities. All functions here are elementwise, and run in pieces that fit the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dmn.rules.base import Activation
from dmn.rules.call import Call
from dmn.rules.norms import Scaling
from dmn.rules.scaled import Scaled, add_scaled, blockwise, power, recentred

Signal = tuple[Tensor, Tensor]  # q and a
Recentring = tuple[float, float]  # theta and threshold
AMPLIFICATION = 1.75  # of relevance in one layer, where it weighs pixels


def relu_share(u: Tensor, out: Tensor, s: Scaled | None, k: float, epsilon: float) -> Tensor:
    """Return what p's relevance divided by activation is multiplied by, back through a ReLU.

    It is out / (z + epsilon) of z = (u + k s) / 2, the denominator of the shifted relevance.

    Args:
        u: Input of the ReLU.
        out: Its output, which has no n.
        s: Sum stream of the input; None for k = 0.
        k: 1 - 2 alpha.
        epsilon: Stabiliser.
    """
    floor = _stabiliser(epsilon, 0 if s is None else s.exponent, u)
    if s is None:
        return 2 * out / (u.clamp(min=0) + floor)
    unit = s.unit

    def piece(u: Tensor, out: Tensor, s: Tensor) -> tuple[Tensor]:
        doubled = add_scaled(u * unit, k, s) if unit != 1 else add_scaled(u, k, s)
        share = out / doubled.clamp(min=0).add(floor)
        return (share * (2 * unit),)

    (share,) = blockwise(piece, u, out, s.tensor)
    return share


def automatic_shift(pixels: float) -> float:
    """Return the largest alpha at which contributions amplify noise within a bound.

    The magnitudes of a unit's contributions sum up to (s + k |u|) / 2, and the contributions
    themselves to z = (|u| + k s) / 2. The quotient, by which relevance grows before it cancels, is
    at most 1 / k. It may be `AMPLIFICATION` where pixels are weighed, and grows with the side of
    the area that an input stands for: noise averages over n pixels by the square root of n.

    Args:
        pixels: How many pixels of the image each input stands for that is weighed.
    """
    return 0.5 - 0.5 / max(1.0, AMPLIFICATION * math.sqrt(pixels))


def rebalance(q: Tensor, a: Tensor, u: Tensor, s: Scaled, k: float, epsilon: float) -> Signal:
    """Shift a signal, and divide it so that relevance is conserved.

    Relevance of the larger stream is spread by the weights of both signs: own ones 1 - alpha, the
    others -alpha. Of the smaller stream's relevance, the share 2 alpha goes over to the larger.

    Args:
        q: Half the difference of relevance divided by activation, of p and of n.
        a: Half the sum.
        u: The activation, p - n.
        s: The sum stream, p + n.
        k: 1 - 2 alpha.
        epsilon: Added to each denominator, in units of 1.
    """
    q, a = blockwise(rebalancing(q, s, k, epsilon), q, a, u, s.tensor)
    return q, a


def rebalancing(like: Tensor, s: Scaled, k: float, epsilon: float) -> Callable[..., Signal]:
    """Return `rebalance` for pieces of q, a, u and s.

    Args:
        like: A tensor of the type of q.
        s: The sum stream, whose unit counts.
        k: 1 - 2 alpha.
        epsilon: Added to each denominator, in units of 1.
    """
    unit, floor = s.unit, _stabiliser(epsilon, s.exponent, like)

    def piece(q: Tensor, a: Tensor, u: Tensor, s: Tensor) -> Signal:
        sign, size = _sign(u), u.abs()
        size = size if unit == 1 else size.mul_(unit)
        larger, smaller = (s + size).clamp_(min=0), (s - size).clamp_(min=0)  # doubled streams
        q = q * sign
        own, other = (a + q).mul_(larger), (a - q).mul_(smaller)
        own = own.add_(other * (1 - k)).div_((s * k).add_(size).add_(floor).mul_(2))
        other = other.mul_(k / 2).div_(smaller + floor)
        q = (own - other).mul_(sign)
        return q, own.mul_(k).add_(other)

    return piece


def keep_whole(call: Call, q: Tensor, a: Tensor, recentring: Recentring) -> Signal:
    """Propagate relevance back through recentring, which does not change it."""

    def piece(q: Tensor, a: Tensor, s: Tensor, u: Tensor) -> Signal:
        return _undo_recentring(q, a, Scaled(s, call.s.exponent), u, recentring)

    q, a = blockwise(piece, q, a, call.s.tensor, call.out)
    return q, a


def through_activation(
    rule: Activation,
    call: Call,
    q: Tensor,
    a: Tensor,
    recentring: Recentring,
    epsilon: float,
) -> Signal:
    """Propagate relevance back through recentring and, by the secant, an activation; shift it."""
    low, high = rule.bounds(call)
    at_zero = rule.value_at_zero(call, call.u[0]) if rule.at_zero else 0.0
    shifted, tiny = rebalancing(q, call.s_in, call.k, epsilon), torch.finfo(q.dtype).tiny

    def piece(q: Tensor, a: Tensor, u: Tensor, s_in: Tensor) -> Signal:
        out = call(u)  # again: to keep it takes a third more memory
        s = rule.sums(call, [u], out, [s_in], call.s_in.unit)
        q, a = _undo_recentring(q, a, Scaled(s, call.s_in.exponent), out, recentring)
        rise = out - at_zero if rule.at_zero else out
        slope = rise / _sign(u).mul_(u.abs().clamp_(min=tiny))  # 0 at 0
        q = (q + a).mul_(slope)  # p's
        return shifted(add_scaled(q, low - high, a), a * (low + high), u, s_in)

    streams = q, a, call.u[0], call.s_in.tensor
    by_channel = any(isinstance(value, Tensor) and value.dim() for value in (low, high, at_zero))
    q, a = piece(*streams) if by_channel else blockwise(piece, *streams)  # else it cannot be cut
    return q, a


def through_scaling(
    rule: Scaling,
    call: Call,
    q: Tensor,
    a: Tensor,
    recentring: Recentring,
    epsilon: float,
) -> Signal:
    """Propagate relevance back through recentring and an elementwise affine map; shift it."""
    unit, shifted = call.s_in.unit, rebalancing(q, call.s_in, call.k, epsilon)
    factors = rule.factor(call, rule.coefficients(call))

    def piece(q: Tensor, a: Tensor, u: Tensor, out: Tensor, s_in: Tensor, factor: Tensor) -> Signal:
        size, constant = factor.abs(), torch.addcmul(out, factor, u, value=-1).abs_()
        s = add_scaled(size * s_in, unit, constant)
        q, a = _undo_recentring(q, a, Scaled(s, call.s_in.exponent), out, recentring)
        return shifted(q * factor, a * size, u, s_in)

    q, a = blockwise(piece, q, a, call.u[0], call(*call.u), call.s_in.tensor, factors)
    return q, a


def _stabiliser(epsilon: float, exponent: int, signal: Tensor) -> float:
    """Return what is added to a doubled stream, in units of 2**exponent; never 0."""
    return max(2 * epsilon * power(-exponent), torch.finfo(signal.dtype).tiny)


def _undo_recentring(q: Tensor, a: Tensor, s: Scaled, u: Tensor, recentring: Recentring) -> Signal:
    """Return the signal before recentring."""
    if recentring == (0.0, 0.0):
        return _undo_least(q, a, s, u)
    recentred_s = recentred(s, u, *recentring)
    if recentred_s is s:
        return q, a
    p, n = a + q, a - q
    new_p, new_n = _doubled_streams(recentred_s.tensor, u, recentred_s.exponent)
    old_p, old_n = _doubled_streams(s.tensor, u, s.exponent)
    unit = power(recentred_s.exponent - s.exponent)
    p, n = p.mul_(_share(new_p, old_p, unit)), n.mul_(_share(new_n, old_n, unit))
    return (p - n).mul_(0.5), p.add_(n).mul_(0.5)


def _undo_least(q: Tensor, a: Tensor, s: Scaled, u: Tensor) -> Signal:
    """Do this where one stream is left, |u|; it gets the other's share of relevance, too."""
    size, unit, sign = u.abs(), s.unit, u.sign()
    size = size if unit == 1 else size.mul_(unit)
    share = size.div_((s.tensor + size).clamp_(min=torch.finfo(u.dtype).tiny))
    a = torch.addcmul(a, q, sign).mul_(share)
    return a * sign, a


def _sign(u: Tensor) -> Tensor:
    """Return the sign, 1 at 0; `torch.where` takes ten times as long."""
    return u.sign().add_(0.5).sign_()


def _share(after: Tensor, before: Tensor, unit: float) -> Tensor:
    share = after.div_(before.clamp_(min=torch.finfo(before.dtype).tiny))
    return share if unit == 1 else share.mul_(unit)


def _doubled_stream(s: Tensor, u: Tensor, exponent: int, sign: int = 1) -> Tensor:
    return add_scaled(s, sign * power(-exponent), u).clamp_(min=0)


def _doubled_streams(s: Tensor, u: Tensor, exponent: int) -> Signal:
    """Return twice the streams p and n, in the unit of s."""
    return _doubled_stream(s, u, exponent), _doubled_stream(s, u, exponent, -1)
