"""What each kind of operation does to the sum stream, and to sensitivities in the backward pass.

The operation itself maps u, the original activation. Its rule says what it does to s, the sum of
the streams p and n, and how a signal (q, a) goes back through it: half the difference and half the
sum of the sensitivities to p and to n. The pages "The split of a trained network" and "Notation" of
the documentation derive the rules and list the letters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dmn.nn import Pool
from dmn.rules.call import Call
from dmn.rules.scaled import add_scaled

Signals = list[Tensor] | None  # one for each input stream; None for zeros
Slope = float | Tensor


class Rule:
    """The rule of an operation that does to s what it does to u: averages, shapes, sums, ...

    It is also the base class of all other rules.

    Attributes:
        weighted: Whether the operation has weights, by which signals may grow.
        on_vectors: Whether it has weights and no positions, as a linear layer.
        nonlinear: Whether it is not linear. If so, the shift acts on its input, and s is recentred
            after it.
        symmetric: Whether it does the same to p and to n.
        is_relu: Whether it is ReLU.
        moves: Whether each output is one of the inputs, or one plus a constant, so that its
            gradient conserves relevance.
        reduces: Whether it leaves out or joins positions of the image, as pooling.

    Examples:
        >>> class Mirrored(nn.Module):  # only moves numbers: it does the same to s as to u
        ...     def forward(self, x):
        ...         return x.flip(-1)
        >>> add_rule(Mirrored, Rule())
        >>> is_known(Mirrored())
        True
    """

    weighted = False
    on_vectors = False
    nonlinear = False
    symmetric = True
    is_relu = False
    moves = False
    reduces = False

    def for_pool(self, pool: Pool) -> Rule:
        """Return the rule for one of the forms of max pooling."""
        return self

    def preserves(self, call: Call) -> tuple[bool, bool]:
        """Return whether g and h stay monotone, and convex, in the streams."""
        return True, True

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        """Return the sum stream of the output.

        Args:
            call: The operation.
            u: Original activations, the inputs.
            out: Original activation, the output.
            s: Sum streams of the inputs, in units of a power of two.
            unit: The number 1 in these units; constants are multiplied by it.
        """
        return call(*s)

    def back(self, call: Call, q: Tensor | None, a: Tensor | None) -> tuple[Signals, Signals]:
        """Propagate a signal back.

        Args:
            call: The operation, recorded.
            q: Half the difference of the sensitivities to p and n; None for zero.
            a: Half their sum, shifted if the operation is not linear; None for zero.
        """
        from_difference = None if q is None else self.difference_back(call, q)
        return from_difference, None if a is None else self.sum_back(call, a)

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        """Propagate q back, by the transpose of the operation."""
        return call.vjp(q)

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        """Propagate a back, by the transpose of what `sums` does to s."""
        return call.vjp(a)

    def p_back(self, call: Call, q: Tensor, ratio: Slope) -> list[Tensor]:
        """Propagate a signal with a = ratio q back to inputs without n; returns half of p's."""
        if self.symmetric:
            return call.vjp(q * ((1 + ratio) / 2))
        pairs = zip(self.difference_back(call, q), self.sum_back(call, q * ratio), strict=True)
        return [(from_difference + from_sum) / 2 for from_difference, from_sum in pairs]

    def ratio_back(self, call: Call, ratio: Slope) -> Slope | None:
        """Return a / q at the inputs, where it is ratio at the output; None if it varies."""
        return ratio if self.symmetric and isinstance(ratio, float) else None

    def needs_recording(self, call: Call) -> bool:
        """Return whether relevance goes back by autograd."""
        return True


class Move(Rule):
    """An operation that moves numbers without changing them: shapes, slices, concatenation."""

    moves = True


class Absolute(Rule):
    """An affine operation: it acts on s by the absolute values of its weights and constants.

    Args:
        linear: What it does to s except for the constants, given the call and the streams.
        constant: Whether there are constants; they are its output for zeros.
        moves: Whether it only moves numbers and adds constants.
    """

    symmetric = False

    def __init__(
        self, linear: Callable[..., Tensor], constant: bool = False, moves: bool = False
    ) -> None:
        self.linear, self.constant, self.moves = linear, constant, moves

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        result = self.linear(call, *s)
        return result + unit * call(*map(torch.zeros_like, u)).abs() if self.constant else result

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        return call.transposed(lambda *s: self.linear(call, *s), a)


class Activation(Rule):
    """The rule of an elementwise function with slopes in [-c, C].

    Args:
        slopes: (c, C), both >= 0, or a function that returns them, given the call.
        convex: Whether the function is convex, or a function that returns this, given the call.
        at_zero: Whether its value at 0 may differ from 0.
        is_relu: Whether it is ReLU.

    Examples:
        >>> from dmn.split import split
        >>> class Snake(nn.Module):  # x + sin(x)^2 has slopes in [0, 2]
        ...     def forward(self, x):
        ...         return x + torch.sin(x) ** 2
        >>> add_rule(Snake, Activation((0.0, 2.0)))
        >>> split(nn.Sequential(Snake(), nn.Flatten()), torch.randn(2, 1, 4, 4)).layers
        ('input', '0')
    """

    nonlinear = True
    symmetric = False

    def __init__(
        self,
        slopes: tuple[float, float] | Callable[[Call], tuple[Slope, Slope]] = (0.0, 1.0),
        convex: bool | Callable[[Call], bool] = False,
        at_zero: bool = False,
        is_relu: bool = False,
    ) -> None:
        self.slopes, self.convex, self.at_zero, self.is_relu = slopes, convex, at_zero, is_relu

    def preserves(self, call: Call) -> tuple[bool, bool]:
        return True, self.convex(call) if callable(self.convex) else self.convex

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        at_zero = self.value_at_zero(call, out) if self.at_zero else 0.0
        return activation_sum(u[0], out, s[0], *self.bounds(call), at_zero, unit)

    def back(self, call: Call, q: Tensor | None, a: Tensor | None) -> tuple[Signals, Signals]:
        if a is None:
            return None if q is None else call.vjp(q), None
        low, high = self.bounds(call)
        pulled = call.vjp(a if q is None else q + a)[0]
        factor = low - high
        if isinstance(factor, float) and not torch.is_grad_enabled():
            return [pulled.add_(a, alpha=factor)], [scale_by(a, low + high)]
        return [add_scaled(pulled, factor, a)], [scale_by(a, low + high)]

    def needs_recording(self, call: Call) -> bool:
        return False  # the secant is divided out

    def bounds(self, call: Call) -> tuple[Slope, Slope]:
        return self.slopes(call) if callable(self.slopes) else self.slopes

    @staticmethod
    def value_at_zero(call: Call, output: Tensor) -> Tensor:
        return call(output.new_zeros(()))


def activation_sum(
    u: Tensor, out: Tensor, s: Tensor, low: Slope, high: Slope, at_zero: Slope, unit: float
) -> Tensor:
    """Return the sum stream of an activation's output.

    Args:
        u: Its input.
        out: Its output.
        s: Sum stream of the input, in units of a power of two.
        low: Slopes are in [-low, high].
        high: Likewise.
        at_zero: Value of the activation at 0; 0.0 where it is 0 by rule.
        unit: The number 1 in these units.
    """
    total = add_scaled(out, low - high, u)
    total = add_scaled(scale_by(s, low + high), unit, total)
    if isinstance(at_zero, Tensor):  # keep p, n >= 0
        total = total + 2 * unit * (-at_zero).clamp(min=0)
    return total


def scale_by(x: Tensor, factor: Slope) -> Tensor:
    """Return x times a factor, and x itself where the factor is 1."""
    return x if isinstance(factor, float) and factor == 1 else x * factor
