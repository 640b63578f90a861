"""What relevance needs besides derivatives: stabilisation, secants, and recentring.

A signal (q, a) is then relevance divided by activation: linear operations treat it as they treat
sensitivities. All functions here are elementwise, and run in pieces that fit the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmn.rules.base import Activation
from dmn.rules.call import Call
from dmn.rules.scaled import Scaled, add_scaled, blockwise, power, recentred

Signal = tuple[Tensor, Tensor]  # q and a
Recentring = tuple[float, float]  # theta and threshold


def stabilise_p(call: Call, q: Tensor, epsilon: float) -> Tensor:
    """Stabilise as `stabilise` does, where n has no relevance and a is equal to q.

    Args:
        call: The operation with weights, and its output.
        q: Half of p's relevance divided by activation.
        epsilon: Added to z, in units of 1.
    """
    exponent = call.s.exponent
    epsilon = _stabiliser(epsilon, exponent, q)

    def piece(q: Tensor, s: Tensor, u: Tensor) -> tuple[Tensor]:
        p = _doubled_stream(s, u, exponent)
        return (p.div_(p + epsilon).mul_(q),)

    (half,) = blockwise(piece, q, call.s.tensor, call.out)
    return half


def stabilise(call: Call, q: Tensor, a: Tensor, epsilon: float) -> Signal:
    """Divide relevance by z + epsilon rather than by z, for an output z of weights.

    Args:
        call: The operation with weights, and its output.
        q: Half the difference of relevance divided by activation, of p and of n.
        a: Half the sum.
        epsilon: Added to z, in units of 1.
    """
    exponent = call.s.exponent
    epsilon = _stabiliser(epsilon, exponent, q)

    def piece(q: Tensor, a: Tensor, s: Tensor, u: Tensor) -> Signal:
        p, n = _doubled_streams(s, u, exponent)
        p, n = (a + q) * p.div_(p + epsilon), (a - q) * n.div_(n + epsilon)
        return (p - n).mul_(0.5), p.add_(n).mul_(0.5)

    q, a = blockwise(piece, q, a, call.s.tensor, call.out)
    return q, a


def keep_whole(call: Call, q: Tensor, a: Tensor, recentring: Recentring) -> Signal:
    """Propagate relevance back through recentring, which does not change it."""

    def piece(q: Tensor, a: Tensor, s: Tensor, u: Tensor) -> Signal:
        p, n = _undo_recentring(q, a, Scaled(s, call.s.exponent), u, recentring)
        return (p - n).mul_(0.5), p.add_(n).mul_(0.5)

    q, a = blockwise(piece, q, a, call.s.tensor, call.out)
    return q, a


def through_activation(
    rule: Activation, call: Call, q: Tensor, a: Tensor, recentring: Recentring
) -> Signal:
    """Propagate relevance back through recentring and, by the secant, through an activation."""
    low, high = rule.bounds(call)
    at_zero = rule.value_at_zero(call, call.out) if rule.at_zero else 0.0

    def piece(q: Tensor, a: Tensor, s: Tensor, u: Tensor, out: Tensor) -> Signal:
        p, n = _undo_recentring(q, a, Scaled(s, call.s.exponent), out, recentring)
        rise = out - at_zero if rule.at_zero else out
        slope = torch.where(u == 0, 0.0, rise / u)
        a = n.add_(p).mul_(0.5)
        return p.mul_(slope) + (low - high) * a, a * (low + high)

    by_channel = any(isinstance(value, Tensor) and value.dim() for value in (low, high, at_zero))
    if by_channel:  # cannot be cut into pieces
        return piece(q, a, call.s.tensor, call.u[0], call.out)
    q, a = blockwise(piece, q, a, call.s.tensor, call.u[0], call.out)
    return q, a


def through_relu(call: Call, q: Tensor, a: Tensor) -> Tensor:
    """Propagate relevance back through a ReLU whose output has no n; returns half of p's.

    All relevance goes to p, and n has none.
    """
    exponent = call.s.exponent
    unit = power(-exponent)

    def piece(q: Tensor, a: Tensor, s: Tensor, out: Tensor) -> tuple[Tensor]:
        before = _doubled_stream(s, out, exponent).clamp_(min=torch.finfo(s.dtype).tiny)
        p = (q + a).mul_(out).div_(before)
        return (p if unit == 1 else p.mul_(unit),)

    (half,) = blockwise(piece, q, a, call.s.tensor, call.out)
    return half


def _stabiliser(epsilon: float, exponent: int, signal: Tensor) -> float:
    """Return what is added to a doubled stream, in units of 2**exponent; never 0."""
    return max(2 * epsilon * power(-exponent), torch.finfo(signal.dtype).tiny)


def _undo_recentring(q: Tensor, a: Tensor, s: Scaled, u: Tensor, recentring: Recentring) -> Signal:
    """Return relevance divided by activation, of p and of n before recentring."""
    p, n = a + q, a - q
    recentred_s = recentred(s, u, *recentring)
    if recentred_s is s:
        return p, n
    new_p, new_n = _doubled_streams(recentred_s.tensor, u, recentred_s.exponent)
    old_p, old_n = _doubled_streams(s.tensor, u, s.exponent)
    unit = power(recentred_s.exponent - s.exponent)
    return p.mul_(_share(new_p, old_p, unit)), n.mul_(_share(new_n, old_n, unit))


def _share(after: Tensor, before: Tensor, unit: float) -> Tensor:
    share = after.div_(before.clamp_(min=torch.finfo(before.dtype).tiny))
    return share if unit == 1 else share.mul_(unit)


def _doubled_stream(s: Tensor, u: Tensor, exponent: int, sign: int = 1) -> Tensor:
    return add_scaled(s, sign * power(-exponent), u).clamp_(min=0)


def _doubled_streams(s: Tensor, u: Tensor, exponent: int) -> Signal:
    """Return twice the streams p and n, in the unit of s."""
    return _doubled_stream(s, u, exponent), _doubled_stream(s, u, exponent, -1)
