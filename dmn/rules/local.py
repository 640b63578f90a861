"""Operations that are split at each image: what depends on it is held as a constant.

Normalisation, attention, and products of activations are no differences of monotone functions. With
their coefficients held at the image, such as 1 / sigma, they are linear, and are split as linear
operations are. The original activation u remains that of the operation itself.

Source: coefficients are held in the relevance of transformers by Ali et al. 2022, XAI for
    Transformers, sec. 3; for products see Achtibat et al. 2024, AttnLRP, eq. 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dmn.rules.base import Rule
from dmn.rules.call import Call


def hold(x: Any) -> Any:
    """Return a coefficient as it is; in a graph, it marks where streams end."""
    return x


class Local(Rule):
    """The rule of an operation that is linear once its coefficients are held.

    Attributes:
        holds: What is held, for the certificate.
        refusal: Why there is no rule where nothing may be held.
    """

    symmetric = False
    holds: str
    refusal: str

    def hold(self, call: Call) -> Any:
        """Compute the coefficients from `call.u`, the inputs, and from the other arguments."""
        raise NotImplementedError

    def linear(self, call: Call, held: Any, *streams: Tensor) -> Tensor:
        """Apply the operation to streams, with the coefficients held, and without its constant."""
        raise NotImplementedError

    def bound(self, call: Call, held: Any, *sums: Tensor) -> Tensor:
        """Apply the absolute values of what `linear` multiplies by."""
        raise NotImplementedError

    def constant(self, call: Call, held: Any) -> Tensor | None:
        """Return what is added; None for nothing."""
        return None

    def affine(self, call: Call, *streams: Tensor) -> Tensor:
        """Return what the operation with the coefficients of a call makes of other streams."""
        held = self.coefficients(call)
        result, constant = self.linear(call, held, *streams), self.constant(call, held)
        return result if constant is None else result + constant

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        held = self.coefficients(call)
        result, constant = self.bound(call, held, *s), self.constant(call, held)
        return result if constant is None else result + unit * constant.abs()

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        held = self.coefficients(call)
        return call.transposed(lambda *v: self.linear(call, held, *v), q)

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        held = self.coefficients(call)
        return call.transposed(lambda *s: self.bound(call, held, *s), a)

    def coefficients(self, call: Call) -> Any:
        """Return the coefficients of a call, computed once."""
        if call.held is None:
            call.held = self.hold(call)
        return call.held


class Bilinear(Local):
    """A product of two activations: each gets half of it, and the other is held."""

    holds = "each factor for the other"
    refusal = (
        "a product of two activations (gates, attention, squeeze-and-excitation) is no "
        "difference of monotone functions of their streams"
    )

    def hold(self, call: Call) -> Sequence[Tensor]:
        return call.u

    def linear(self, call: Call, held: Sequence[Tensor], *streams: Tensor) -> Tensor:
        (one, two), (left, right) = held, streams
        return (call(left, two) + call(one, right)) / 2

    def bound(self, call: Call, held: Sequence[Tensor], *sums: Tensor) -> Tensor:
        return self.linear(call, [factor.abs() for factor in held], *sums)


class Power(Local):
    """A whole power x^k, k >= 2, as the product of one factor x and the others, which are held."""

    holds = "all factors but one"
    refusal = Bilinear.refusal

    def hold(self, call: Call) -> Tensor:
        factors: Tensor = call.u[0] ** (call.argument("exponent", 1, 2) - 1)
        return factors

    def linear(self, call: Call, held: Tensor, *streams: Tensor) -> Tensor:
        return streams[0] * held

    def bound(self, call: Call, held: Tensor, *sums: Tensor) -> Tensor:
        return sums[0] * held.abs()


class GatedHalf(Local):
    """`F.glu`: one half of the channels times the sigmoid of the other, which is held."""

    holds = "the gate"
    refusal = Bilinear.refusal

    def hold(self, call: Call) -> Tensor:
        return call.u[0].chunk(2, call.option("dim", 1, -1))[1].sigmoid()

    def linear(self, call: Call, held: Tensor, *streams: Tensor) -> Tensor:
        return streams[0].chunk(2, call.option("dim", 1, -1))[0] * held

    bound = linear
