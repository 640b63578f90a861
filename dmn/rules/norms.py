"""Normalisation by statistics of the image, which are held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmn.rules.base import Rule
from dmn.rules.call import Call
from dmn.rules.linear import ChannelAffine
from dmn.rules.local import Local
from dmn.rules.operations import Operation


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


class Scaling(Local):
    """An operation that divides by statistics of its input: each output comes from one input."""

    nonlinear = True
    refusal = "divides by statistics of the image: not monotone in the streams"

    def factor(self, call: Call, held: Any) -> Tensor:
        """Return what each number is multiplied by, in the shape of the input."""
        raise NotImplementedError

    def linear(self, call: Call, held: Any, *streams: Tensor) -> Tensor:
        return streams[0] * self.factor(call, held)

    def bound(self, call: Call, held: Any, *sums: Tensor) -> Tensor:
        return sums[0] * self.factor(call, held).abs()

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        return [self.linear(call, self.coefficients(call), q)]

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        return [self.bound(call, self.coefficients(call), a)]


class Normalisation(Scaling):
    """Normalisation by statistics of the image; the mean and 1 / sigma are held.

    u becomes weight (u - mean) / sigma + bias. As the mean is held, too, each output comes from one
    input, as by the identity rule of AttnLRP: the matrix of centring would spread relevance over
    all of them.

    Args:
        groups: Which numbers are normalised together, given the call and activations.
        centred: Whether the mean is subtracted.
    """

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

    def factor(self, call: Call, held: Statistics) -> Tensor:
        groups = held.groups
        scale = held.scale.expand(groups.shape).reshape(call.shapes[0])
        return scale if groups.weight is None else scale * groups.weight

    def constant(self, call: Call, held: Statistics) -> Tensor | None:
        groups = held.groups
        if held.mean is None:
            return groups.bias
        mean = held.mean.expand(groups.shape).reshape(call.shapes[0])
        shift = -mean * self.factor(call, held)
        return shift if groups.bias is None else shift + groups.bias


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
        shape = (u.shape[0], count, u[0].numel() // count)
        return Groups(shape, (-1,), scale, shift, _eps(call, eps, u))

    return groups


def _eps(call: Call, position: int, u: Tensor) -> float:
    eps = call.option("eps", position, 1e-5)
    return float(torch.finfo(u.dtype).eps if eps is None else eps)


class UnitLength(Scaling):
    """`F.normalize`: division by a norm, which is held."""

    holds = "the norm"

    def hold(self, call: Call) -> Tensor:
        order, dim = call.option("p", 1, 2.0), call.option("dim", 2, 1)
        norm = torch.linalg.vector_norm(call.u[0], order, dim, keepdim=True)
        scale: Tensor = norm.clamp_min(call.option("eps", 3, 1e-12)).reciprocal()
        return scale

    def factor(self, call: Call, held: Tensor) -> Tensor:
        return held.expand(call.shapes[0])


LAYER_NORM = Normalisation(last_axes(weight=2, bias=3, eps=4))
RMS_NORM = Normalisation(last_axes(weight=2, bias=None, eps=3), centred=False)
GROUP_NORM = Normalisation(channel_groups(weight=2, bias=3, eps=4))
INSTANCE_NORM = Normalisation(channel_groups(weight=3, bias=4, eps=7))
UNIT_LENGTH = UnitLength()


def instance_norm(operation: Operation) -> Rule:
    """Distinguish running statistics, which are constants, from those of the image."""
    own = operation.option("running_mean", 1) is None
    if not isinstance(operation.target, nn.Module):
        own = own or operation.option("use_input_stats", 5, True)
    return INSTANCE_NORM if own else ChannelAffine()
