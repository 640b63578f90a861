"""Operations that are split at each image: what depends on it is held as a constant.

Normalisation, attention and products of activations are no differences of monotone functions. With
their coefficients held at the image, such as 1 / sigma, they are linear, and are split as linear
operations are. The original activation u remains that of the operation itself.

Source: coefficients are held in the relevance of transformers by Ali et al. 2022, XAI for
    Transformers, sec. 3; for products see Achtibat et al. 2024, AttnLRP, eq. 15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.nn.attention import from_heads, module_weights, projection, to_heads
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
    local = True
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

    def needs_recording(self, call: Call) -> bool:
        return False

    def coefficients(self, call: Call) -> Any:
        """Return the coefficients of a call, computed once."""
        if call.held is None:
            call.held = self.hold(call)
        return call.held


class Groups(NamedTuple):
    """Which numbers are normalised together, and what follows.

    Attributes:
        shape: Into which activations are brought first.
        axes: The axes of this shape over which statistics are computed.
        weight: Factor of each channel, which broadcasts to activations; None for 1.
        bias: What is added to each channel; None for 0.
        eps: Added to the variance.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class Statistics(NamedTuple):
    """The statistics of an image that normalise its activations.

    Attributes:
        groups: What they are computed of.
        scale: 1 / sigma, in the shape of the groups with their axes 1.
        mean: In the same shape; None if it is not subtracted.
    """

    groups: Groups
    scale: Tensor
    mean: Tensor | None


class Normalisation(Local):
    """Normalisation by statistics of the image; the mean and 1 / sigma are held.

    u becomes weight (u - mean) / sigma + bias. As the mean is held, too, each output comes from one
    input, as by the identity rule of AttnLRP: the matrix of centring would spread relevance over
    all of them.

    Args:
        groups: Which numbers are normalised together, given the call and activations.
        centred: Whether the mean is subtracted.
    """

    nonlinear = True
    normalises = True
    refusal = "divides by statistics of the image: not monotone in the streams"

    def __init__(self, groups: Callable[[Call, Tensor], Groups], centred: bool = True) -> None:
        self.groups, self.centred = groups, centred
        self.holds = "mean and 1 / sigma" if centred else "1 / sigma"

    def hold(self, call: Call) -> Statistics:
        (u,) = call.u
        groups = self.groups(call, u)
        grouped, mean = u.reshape(groups.shape), None
        if self.centred:
            mean = grouped.mean(groups.axes, keepdim=True)
            grouped = grouped - mean
        variance = grouped.square().mean(groups.axes, keepdim=True)
        return Statistics(groups, torch.rsqrt(variance + groups.eps), mean)

    def linear(self, call: Call, held: Statistics, *streams: Tensor) -> Tensor:
        return _scaled(streams[0], held, held.groups.weight)

    def bound(self, call: Call, held: Statistics, *sums: Tensor) -> Tensor:
        weight = held.groups.weight
        return _scaled(sums[0], held, None if weight is None else weight.abs())

    def constant(self, call: Call, held: Statistics) -> Tensor | None:
        groups = held.groups
        if held.mean is None:
            return groups.bias
        mean = held.mean.expand(groups.shape).reshape(call.shapes[0])
        shift = -_scaled(mean, held, groups.weight)
        return shift if groups.bias is None else shift + groups.bias

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        return [self.linear(call, self.coefficients(call), q)]

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        return [self.bound(call, self.coefficients(call), a)]


def _scaled(x: Tensor, held: Statistics, weight: Tensor | None) -> Tensor:
    """Divide by sigma, and multiply by a weight."""
    result = (x.reshape(held.groups.shape) * held.scale).reshape(x.shape)
    return result if weight is None else result * weight


def last_axes(weight: int, bias: int | None, eps: int) -> Callable[[Call, Tensor], Groups]:
    """Return the groups of LayerNorm and RMSNorm, by the positions of the functions' arguments."""

    def groups(call: Call, u: Tensor) -> Groups:
        count = len(call.option("normalized_shape", 1))
        added = None if bias is None else call.option("bias", bias)
        return Groups(
            tuple(u.shape),
            tuple(range(-count, 0)),
            call.option("weight", weight),
            added,
            _eps(call, eps, u),
        )

    return groups


def channel_groups(weight: int, bias: int, eps: int) -> Callable[[Call, Tensor], Groups]:
    """Return the groups of GroupNorm and, of one channel each, of InstanceNorm."""

    def groups(call: Call, u: Tensor) -> Groups:
        count = call.option("num_groups", 1)
        count = count if isinstance(count, int) else u.shape[1]
        per_channel = (-1, *[1] * (u.dim() - 2))
        scale, shift = (
            None if value is None else value.view(per_channel)
            for value in (call.option("weight", weight), call.option("bias", bias))
        )
        shape = (len(u), count, u[0].numel() // count)
        return Groups(shape, (-1,), scale, shift, _eps(call, eps, u))

    return groups


def _eps(call: Call, position: int, u: Tensor) -> float:
    eps = call.option("eps", position, 1e-5)
    return float(torch.finfo(u.dtype).eps if eps is None else eps)


class UnitLength(Local):
    """`F.normalize`: division by a norm, which is held."""

    nonlinear = True
    normalises = True
    holds = "the norm"
    refusal = Normalisation.refusal

    def hold(self, call: Call) -> Tensor:
        order, dim = call.option("p", 1, 2.0), call.option("dim", 2, 1)
        norm = torch.linalg.vector_norm(call.u[0], order, dim, keepdim=True)
        scale: Tensor = norm.clamp_min(call.option("eps", 3, 1e-12)).reciprocal()
        return scale

    def linear(self, call: Call, held: Tensor, *streams: Tensor) -> Tensor:
        return streams[0] * held

    bound = linear


class Attention(Local):
    """A module of attention; its weights are held. Only the value has streams."""

    weighted = True
    holds = "the attention weights"
    refusal = "attention multiplies activations: no difference of monotone functions of them"

    def hold(self, call: Call) -> Tensor:
        query, key = (call.argument(name, place) for place, name in enumerate(("query", "key")))
        padding = call.argument("key_padding_mask", 3)
        mask = call.argument("attn_mask", 5)
        return module_weights(_attention(call), query, key, padding, mask)

    def linear(self, call: Call, held: Tensor, *streams: Tensor) -> Tensor:
        return self._mixed(call, held, streams[0], torch.Tensor.detach)

    def bound(self, call: Call, held: Tensor, *sums: Tensor) -> Tensor:
        return self._mixed(call, held, sums[0], torch.abs)

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        _, bias = projection(_attention(call), "v")
        first = None if bias is None else unit * bias.abs()
        last = _attention(call).out_proj.bias
        mixed = self._mixed(call, self.coefficients(call), s[0], torch.abs, first)
        return mixed if last is None else mixed + unit * last.abs()

    def constant(self, call: Call, held: Tensor) -> Tensor | None:
        _, bias = projection(_attention(call), "v")
        output = _attention(call).out_proj
        if bias is None:
            return output.bias
        return F.linear(bias, output.weight, output.bias)  # rows of the weights sum up to 1

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        return [self._back(call, q, torch.Tensor.detach)]

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        return [self._back(call, a, torch.abs)]

    def _mixed(
        self,
        call: Call,
        weights: Tensor,
        value: Tensor,
        of_weight: Callable[[Tensor], Tensor],
        bias: Tensor | None = None,
    ) -> Tensor:
        """Project values, mix them, and project the result."""
        weight, _ = projection(_attention(call), "v")
        heads = to_heads(_attention(call), F.linear(value, of_weight(weight), bias))
        mixed = from_heads(_attention(call), weights @ heads)
        return F.linear(mixed, of_weight(_attention(call).out_proj.weight))

    def _back(self, call: Call, signal: Tensor, of_weight: Callable[[Tensor], Tensor]) -> Tensor:
        weight, _ = projection(_attention(call), "v")
        heads = to_heads(_attention(call), signal @ of_weight(_attention(call).out_proj.weight))
        mixed = self.coefficients(call).transpose(-2, -1) @ heads
        return from_heads(_attention(call), mixed) @ of_weight(weight)


def _attention(call: Call) -> nn.MultiheadAttention:
    assert isinstance(call.module, nn.MultiheadAttention), "the rule is for this module only"
    return call.module


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
