"""What relevance needs besides derivatives: the shift, secants, and recentring.

A signal (q, a) is then relevance divided by activation: linear operations treat it as they treat
sensitivities. All operations are elementwise, and run in pieces that fit the cache, or compiled.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmn.rules.base import Activation
from dmn.rules.call import Call
from dmn.rules.norms import Scaling
from dmn.rules.scaled import Scaled, add_scaled, blockwise, power
from dmn.split.elementwise import (
    Divisor,
    Recentring,
    Signal,
    Slopes,
    activation_back,
    before_recentring,
    compiled,
    rebalanced,
    scaling_back,
)

AMPLIFICATION = 1.75  # of relevance in one layer, where it weighs pixels


class Elementwise(NamedTuple):
    """How elementwise operations propagate relevance.

    Attributes:
        recentring: Theta and threshold.
        epsilon: Stabiliser.
        compile: Whether `torch.compile` fuses them.
    """

    recentring: Recentring
    epsilon: float
    compile: bool

    @property
    def fused(self) -> bool:
        """Whether to run compiled functions, which are not differentiated."""
        return self.compile and not torch.is_grad_enabled()


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
    divided = partial(rebalanced, divisor=_divisor(s, k, epsilon, q))
    q, a = blockwise(divided, q, a, u, s.tensor)
    return q, a


def keep_whole(call: Call, q: Tensor, a: Tensor, recentring: Recentring) -> Signal:
    """Propagate relevance back through recentring, which does not change it."""
    undo = partial(before_recentring, unit=call.s.unit, recentring=recentring)
    q, a = blockwise(undo, q, a, call.s.tensor, call.out)
    return q, a


def through_activation(
    rule: Activation, call: Call, q: Tensor, a: Tensor, options: Elementwise
) -> Signal:
    """Propagate relevance back through recentring and, by the secant, an activation; shift it."""
    (u,), s = call.u, call.s_in
    slopes = Slopes(*rule.bounds(call), rule.value_at_zero(call, u) if rule.at_zero else 0.0)
    constants = {"slopes": slopes, **_constants(s, call.k, q, options)}
    if any(isinstance(value, Tensor) and value.dim() for value in slopes):  # by channel: not cut
        return activation_back(q, a, u, call(u), s.tensor, **constants)
    if options.fused:
        return compiled(activation_back)(q, a, u, call(u), s.tensor, **constants)

    def piece(q: Tensor, a: Tensor, u: Tensor, s: Tensor) -> Signal:
        # The output once more: to keep it takes a third more memory.
        return activation_back(q, a, u, call(u), s, **constants)

    q, a = blockwise(piece, q, a, u, s.tensor)
    return q, a


def through_scaling(
    rule: Scaling, call: Call, q: Tensor, a: Tensor, options: Elementwise
) -> Signal:
    """Propagate relevance back through recentring and an elementwise affine map; shift it."""
    (u,), s = call.u, call.s_in
    streams = q, a, u, call(u), s.tensor, rule.factor(call, rule.coefficients(call))
    constants = _constants(s, call.k, q, options)
    if options.fused:
        return compiled(scaling_back)(*streams, **constants)
    q, a = blockwise(partial(scaling_back, **constants), *streams)
    return q, a


def _constants(s: Scaled, k: float, signal: Tensor, options: Elementwise) -> dict[str, Any]:
    """Return the arguments that are no tensors."""
    divisor = _divisor(s, k, options.epsilon, signal)
    return {"divisor": divisor, "recentring": options.recentring}


def _divisor(s: Scaled, k: float, epsilon: float, signal: Tensor) -> Divisor:
    return Divisor(k, _stabiliser(epsilon, s.exponent, signal), s.unit)


def _stabiliser(epsilon: float, exponent: int, signal: Tensor) -> float:
    """Return what is added to a doubled stream, in units of 2**exponent; never 0."""
    return max(2 * epsilon * power(-exponent), torch.finfo(signal.dtype).tiny)
