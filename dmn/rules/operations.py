"""How an operation of torch is matched with a rule, and rules that depend on its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import stochastic_depth

from dmn.rules.base import Absolute, Activation, Move, Rule
from dmn.rules.bicubic import BICUBIC
from dmn.rules.call import Call, Slot
from dmn.rules.linear import ChannelAffine, Linear
from dmn.rules.local import Bilinear, Power


class Operation(NamedTuple):
    """What is known about an operation before anything runs.

    Attributes:
        target: Its module, its function, or its method's name.
        args: Positional arguments; streams are nodes.
        kwargs: Keyword arguments.
        streams: Nodes that hold a stream, rather than a size or a parameter.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    streams: frozenset[fx.Node]

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """Return an attribute of the module or, of a function, an argument."""
        if isinstance(self.target, nn.Module):
            return getattr(self.target, name, default)
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def is_stream(self, argument: Any) -> bool:
        """Return whether an argument holds a stream."""
        return isinstance(argument, fx.Node) and argument in self.streams


RuleEntry = Rule | Callable[[Operation], Rule | str]  # a string says why there is no rule


# -- linear operations ---------------------------------------------------------------------------


def convolution(dimensions: int, transposed: bool, order: Sequence[str]) -> Linear:
    """Return the rule of convolutions, which goes back without running forward."""

    def is_plain(call: Call) -> bool:
        padded = call.option("padding_mode", 99, "zeros") != "zeros"
        resized = call.module is not None and len(call.args) + len(call.kwargs) > 1
        return not padded and not resized and not isinstance(options(call)["padding"], str)

    def options(call: Call) -> dict[str, Any]:
        return {
            name: call.option(name, position, _CONVOLUTION[name])
            for position, name in enumerate(order, start=3)
        }

    def back(call: Call, weight: Tensor, signal: Tensor) -> Tensor:
        chosen = options(call)
        sizes = {name: per_axis(chosen.get(name, 0), dimensions) for name in _CONVOLUTION}
        pulled: Tensor = torch.ops.aten.convolution_backward(
            signal,
            signal.new_empty(call.shapes[0]),  # only its shape counts
            weight,
            None,
            sizes["stride"],
            sizes["padding"],
            sizes["dilation"],
            transposed,
            sizes["output_padding"],
            chosen["groups"],
            (True, False, False),
        )[0]
        return pulled

    return Linear(back, is_plain, by_rows=not transposed)


_CONVOLUTION = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
FORWARD = ("stride", "padding", "dilation", "groups")
TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")


def per_axis(size: Any, dimensions: int) -> list[int]:
    """Return one size for each axis of positions."""
    return [size] * dimensions if isinstance(size, int) else list(size)


def batch_norm(operation: Operation) -> Rule | str:
    """Take running statistics as constants; without them there is no rule."""
    if operation.target is torch.batch_norm:  # its arguments stand in another order
        return "torch.batch_norm: call torch.nn.functional.batch_norm"
    if operation.option("running_mean", 1) is None:
        return "batch normalisation without running statistics: the output depends on the batch"
    if not isinstance(operation.target, nn.Module) and operation.option("training", 5, False):
        return "batch normalisation in training mode: the output depends on the batch"
    return ChannelAffine()


# -- sums and constants --------------------------------------------------------------------------


def _constant(call: Call) -> Any:
    """Return the operand that is not a stream."""
    constants = [argument for argument in call.args if not isinstance(argument, Slot)]
    return constants[0] if constants else call.kwargs["other"]


def _broadcast_sum(call: Call, s: Tensor) -> Tensor:
    constant = _constant(call)
    return s + torch.zeros_like(constant) if isinstance(constant, Tensor) else s


def _join_streams(call: Call, *s: Tensor) -> Tensor:
    """Join streams, with zeros where constants are."""
    return call(*s) - call(*map(torch.zeros_like, s))


def _standard_deviations(call: Call, s: Tensor) -> Tensor:
    """Return the standard deviations that `transforms.Normalize` divides by."""
    return torch.as_tensor(call.option("std", 2)).to(s).view(-1, 1, 1)


def _without_constant_term(call: Call, s: Tensor) -> Tensor:
    absolute = call.with_magnitudes()
    return absolute(s) - absolute(torch.zeros_like(s))


def _with_magnitudes(call: Call, s: Tensor) -> Tensor:
    return call.with_magnitudes()(s)


SHIFT = Absolute(_broadcast_sum, constant=True, moves=True)
SCALED = Absolute(_with_magnitudes)  # multiplied by constants, or divided
AFFINE = Absolute(_without_constant_term, constant=True)
PRODUCT, POWER = Bilinear(), Power()
NEGATE = Absolute(lambda call, s: s)
JOINED = Absolute(_join_streams, constant=True, moves=True)
NORMALIZE = Absolute(lambda call, s: s / _standard_deviations(call, s), constant=True)
SUM = Rule()
DIFFERENCE = Absolute(lambda call, *s: s[0] + s[1])


def _operands(operation: Operation) -> list[bool]:
    pair = [*operation.args, operation.kwargs.get("other")][:2]
    return [operation.is_stream(operand) for operand in pair]


def join(operation: Operation) -> Rule:
    """Distinguish streams joined with constants from streams only."""
    parts = operation.args[0] if operation.args else operation.kwargs["tensors"]
    only_streams = isinstance(parts, fx.Node) or all(map(operation.is_stream, parts))
    return MOVE if only_streams else JOINED


def assign(operation: Operation) -> Rule:
    """Distinguish elements that are replaced by others of streams from those by constants."""
    return MOVE if all(map(operation.is_stream, operation.args[::2])) else JOINED


def sum_or_shift(operation: Operation) -> Rule | str:
    """Distinguish the sum of two streams from that of a stream and a constant."""
    if operation.kwargs.get("alpha", 1) != 1:
        return "a sum with `alpha`: write it as a product and a sum"
    if not all(_operands(operation)):
        return SHIFT
    name = getattr(operation.target, "__name__", operation.target)
    return SUM if name == "add" else DIFFERENCE


def product(operation: Operation) -> Rule | str:
    """Distinguish the product of two streams from that of a stream and a constant."""
    count = sum(map(operation.is_stream, (*operation.args, *operation.kwargs.values())))
    if count > 2 or not count:
        return "a product of more than two activations, or of a list: write it as several"
    return PRODUCT if count == 2 else SCALED


def power(operation: Operation) -> Rule | str:
    """Allow whole exponents from 2 on."""
    named = operation.kwargs.get("exponent", 2)
    exponent = operation.args[1] if len(operation.args) > 1 else named
    if not isinstance(exponent, (int, float)) or exponent < 2 or exponent % 1:
        return f"a power with exponent {exponent}: only 2, 3, ... are products of activations"
    return POWER


def sum_of_product(operation: Operation) -> Rule | str:
    """Allow `addcmul` of constants and one factor with streams."""
    if operation.is_stream(operation.args[0]) or sum(map(operation.is_stream, operation.args)) > 1:
        return "addcmul of activations: write it as a product and a sum"
    return AFFINE


def divide(operation: Operation) -> Rule | str:
    """Allow division by constants."""
    if operation.kwargs.get("rounding_mode") or any(_operands(operation)[1:]):
        return "a division by an activation, or a rounded one, is not monotone in the streams"
    return SCALED


# -- activations ---------------------------------------------------------------------------------


def _leaky(call: Call) -> tuple[Any, Any]:
    slope = call.option("negative_slope", 1, 0.01)
    return max(0.0, -min(slope, 1.0)), max(1.0, abs(slope))


def _prelu_slope(call: Call) -> Tensor:
    slope: Tensor = call.option("weight", 1)
    return slope.view(1, -1, *[1] * (len(call.shapes[0]) - 2))


def _prelu(call: Call) -> tuple[Any, Any]:
    slope = _prelu_slope(call)
    return (-slope).clamp(min=0), slope.abs().clamp(min=1)


def _alpha(call: Call) -> float:
    return float(call.option("alpha", 1, 1.0))


def _gelu(call: Call) -> tuple[float, float]:
    low = 0.12891 if call.option("approximate", 1, "none") == "none" else 0.12900
    return low, 1 + low


def if_positive(rule: Rule, option: str, position: int) -> Callable[[Operation], Rule | str]:
    """Restrict a rule to positive values of an option, for which its slopes hold."""

    def entry(operation: Operation) -> Rule | str:
        value = operation.option(option, position, 1.0)
        return (
            rule if value > 0 else f"{option} is {value}: slopes are bounded where it is positive"
        )

    return entry


RELU = Activation(convex=True, is_relu=True)
LEAKY = Activation(_leaky, convex=lambda call: call.option("negative_slope", 1, 0.01) <= 1)
PRELU = Activation(_prelu, convex=lambda call: bool((_prelu_slope(call) <= 1).all()))
CLIPPED = Activation(at_zero=True)
ELU = Activation(
    lambda call: (max(0.0, -_alpha(call)), max(1.0, abs(_alpha(call)))),
    convex=lambda call: 0 <= _alpha(call) <= 1,
)
SELU = Activation((0.0, 1.7581))
SOFTPLUS = Activation(convex=True, at_zero=True)
SIGMOID = Activation((0.0, 0.25), at_zero=True)
HARD_SIGMOID = Activation((0.0, 1 / 6), at_zero=True)
BOUNDED = Activation()
CELU = Activation(convex=True)
LOG_SIGMOID = Activation(at_zero=True)
GELU = Activation(_gelu)
SILU = Activation((0.09984, 1.09984))
HARDSWISH = Activation((0.5, 1.5))
MISH = Activation((0.1126, 1.0885))


# -- the rest ------------------------------------------------------------------------------------


def pad(operation: Operation) -> Rule:
    """Distinguish padding by a constant from padding by values of the image."""
    constant = operation.option("mode", 2, "constant") == "constant"
    return CONSTANT_PAD if constant and operation.option("value", 3) else MOVE


def _zero_pad(call: Call, s: Tensor) -> Tensor:
    sizes = call.option("padding", 1) or call.option("pad", 1)
    return F.pad(s, list(sizes))


def interpolate(operation: Operation) -> Rule:
    """Distinguish modes that repeat or average from bicubic, which has negative weights, too."""
    mode = operation.option("mode", 3, "nearest")
    if mode == "bicubic":
        return BICUBIC
    return MOVE if mode.startswith("nearest") else SAME


def unless_training(operation: Operation) -> Rule | str:
    """Allow operations that are random in training only."""
    position = 3 if operation.target is stochastic_depth else 2
    training = operation.option("training", position, operation.target is not stochastic_depth)
    return "random in training mode: pass training=self.training" if training else MOVE


def cast(operation: Operation) -> Rule | str:
    """Allow casts between floating-point types, devices and memory formats."""
    values = (*operation.args, *operation.kwargs.values())
    types = [value for value in values if isinstance(value, torch.dtype)]
    return MOVE if all(dtype.is_floating_point for dtype in types) else INTEGERS


INTEGERS = "a cast to integers has no slopes: keep the image in a float type"
SAME, AVERAGE = Rule(), Rule()
MOVE, SELECT = Move(), Move()
AVERAGE.reduces = SELECT.reduces = True
CONSTANT_PAD = Absolute(_zero_pad, constant=True, moves=True)
