"""What each kind of layer and operation makes of intervals."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from dmn.certify.interval import SPARE, Interval, affine, flipped, joined
from dmn.nn import ConvexConcave, Inverted, MaxMinPool2d, Opposed, Paired, Plain
from dmn.nn.layers import MONOTONE_ACTIVATIONS, MONOTONE_OPERATIONS, Add, View

Rule = Callable[..., Interval]
"""Called with the module or function, eps for outward rounding, and the arguments of the call."""


def _linear(module: nn.Linear, eps: float, box: Interval) -> Interval:
    weight, bias = cast(module.weight, box), cast(module.bias, box)
    return affine(box, F.linear, weight, bias, module.in_features, eps)


def _convolution(module: _ConvNd, eps: float, box: Interval) -> Interval:
    weight, bias = cast(module.weight, box), cast(module.bias, box)
    if bias is not None:
        bias = bias.reshape(-1, *[1] * (weight.dim() - 2))

    def multiply(x: Tensor, kernel: Tensor) -> Tensor:
        product: Tensor = module._conv_forward(x, kernel, None)
        return product

    return affine(box, multiply, weight, bias, weight[0].numel(), eps)


def _batch_norm(module: _BatchNorm, eps: float, box: Interval) -> Interval:
    shape = (-1, *[1] * (box.low.dim() - 2))
    mean, variance = cast(module.running_mean, box), cast(module.running_var, box)
    scale = (variance + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * cast(module.weight, box)
    shift = -mean * scale if module.bias is None else cast(module.bias, box) - mean * scale
    scale, shift, mean = (each.reshape(shape) for each in (scale, shift, mean))
    out = affine(box, torch.mul, scale, shift, 2 * SPARE, eps)
    return out.widened(2 * SPARE * eps * (scale * mean).abs()) if eps else out  # x - mean


def _average(module: nn.Module, eps: float, box: Interval) -> Interval:
    out = box.apply(module)
    sides = zip(box.low.shape[2:], out.low.shape[2:], strict=True)
    terms = prod(length // cells + 2 for length, cells in sides)
    kernel = getattr(module, "kernel_size", 1)
    kernel = kernel if isinstance(kernel, tuple) else (kernel,) * (box.low.dim() - 2)
    terms = max(terms, prod(kernel))
    return out.widened((terms + SPARE) * eps * module(box.magnitude)) if eps else out


def _monotone(module: Callable[..., Tensor], eps: float, *boxes: Any, **options: Any) -> Interval:
    """Apply what is nondecreasing in each tensor, to both ends; it rounds each value once."""
    out = _ends(module, *boxes, **options)
    return out.widened(8 * eps * (1 + out.magnitude)) if eps else out


def _selecting(module: Callable[..., Tensor], eps: float, *boxes: Any, **options: Any) -> Interval:
    """Apply what is nondecreasing and does not round: it selects values or moves them."""
    return _ends(module, *boxes, **options)


def _ends(function: Callable[..., Tensor], *boxes: Any, **options: Any) -> Interval:
    low, high = (
        function(
            *(getattr(box, end) if isinstance(box, Interval) else box for box in boxes), **options
        )
        for end in ("low", "high")
    )
    return Interval(low, high, joined(0, *(b.direction for b in boxes if isinstance(b, Interval))))


def _sloped(module: nn.LeakyReLU, eps: float, box: Interval) -> Interval:
    if module.negative_slope >= 0:
        return _monotone(module, eps, box)
    ends = module(box.low), module(box.high)
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    crosses = (box.low < 0) & (box.high > 0)
    out = Interval(torch.where(crosses, 0.0, low), high, 0 if box.direction == 0 else None)
    return out.widened(8 * eps * (1 + out.magnitude)) if eps else out


def _view(module: View, eps: float, box: Interval) -> Interval:
    box = box.apply(lambda x: F.pad(x, (module.margin,) * 4))
    if isinstance(module, Plain):
        return box
    opposite = negative(None, eps, box)
    if not isinstance(module, Opposed):
        opposite = opposite.apply(lambda x: 1 + x).widened(2 * eps * (1 + box.magnitude))
    if isinstance(module, Inverted):
        return opposite
    return _selecting(lambda *parts: torch.cat(parts, dim=1), eps, box, opposite)


def negative(function: Any, eps: float, box: Interval) -> Interval:
    """Return the interval of the negative, which is not rounded."""
    return Interval(-box.high, -box.low, flipped(box.direction))


def add(function: Any, eps: float, one: Any, other: Any) -> Interval:
    """Return the interval of a sum."""
    out = _ends(operator.add, one, other)
    return out.widened(2 * eps * out.magnitude) if eps else out


def _subtract(function: Any, eps: float, one: Any, other: Any) -> Interval:
    return add(None, eps, one, negative(None, eps, other) if _is_box(other) else -other)


def _multiply(function: Any, eps: float, one: Any, other: Any) -> Interval:
    box, factor = (one, other) if _is_box(one) else (other, one)
    return affine(box, torch.mul, torch.as_tensor(factor).to(box.low), None, 1, eps)


def _divide(function: Any, eps: float, box: Interval, divisor: Any) -> Interval:
    return _multiply(function, eps, box, 1 / divisor)


def _mean(function: Any, eps: float, box: Interval, *dims: Any, **options: Any) -> Interval:
    out = box.apply(lambda x: x.mean(*dims, **options))
    if not eps:
        return out
    terms = box.low.numel() // out.low.numel()
    return out.widened((terms + SPARE) * eps * box.magnitude.mean(*dims, **options))


def _method(name: str, eps: float, box: Interval, *args: Any, **options: Any) -> Interval:
    return box.apply(lambda x: getattr(x, name)(*args, **options))


def _join(function: Any, eps: float, boxes: Any, *args: Any, **options: Any) -> Interval:
    return _ends(lambda *parts: torch.cat(parts, *args, **options), *boxes)


def _is_box(value: Any) -> bool:
    return isinstance(value, Interval)


def cast(values: Any, box: Interval) -> Any:
    """Return weights in the dtype of a box; None as it is."""
    return None if values is None else values.to(box.low.dtype)


_AVERAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
_EXACT = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, ConvexConcave, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.MaxPool1d, nn.MaxPool2d),
    *(nn.MaxPool3d, MaxMinPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d),
)
MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys(_AVERAGES, _average),
    **dict.fromkeys(_EXACT, _selecting),
    **dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign), _monotone),
    nn.LeakyReLU: _sloped,
    **dict.fromkeys((Plain, Inverted, Paired, Opposed), _view),
    Add: add,
}
"""Rules of modules by their class. Other classes are traced, and follow from their operations."""

_SHAPES = (
    *("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    *("movedim", "unflatten", "expand", "clone", "detach"),
)
FUNCTIONS: dict[Any, Rule] = {
    **dict.fromkeys((operator.add, torch.add, "add"), add),
    **dict.fromkeys((operator.sub, torch.sub, "sub"), _subtract),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), _multiply),
    **dict.fromkeys((operator.truediv, torch.div, "div"), _divide),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), negative),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((torch.cat, torch.concat), _join),
    **dict.fromkeys(_SHAPES, _method),
    **dict.fromkeys((torch.relu, F.relu, F.relu6, F.hardtanh, torch.flatten), _selecting),
    **dict.fromkeys((F.max_pool2d, F.dropout, torch.reshape, torch.permute, F.pad), _selecting),
    "relu": lambda name, eps, box: box.apply(torch.relu),
    **dict.fromkeys((torch.sigmoid, torch.tanh), _monotone),
}
"""Rules of functions, and of methods by their names."""


def rule_of(module: nn.Module) -> Rule | None:
    """Return the rule of a module's class, or of a base class whose forward it has; else None."""
    kind = type(module)
    for base in kind.__mro__:
        if base in MODULES:
            own = [getattr(kind, name, None) for name in ("forward", "view")]
            same = own == [getattr(base, name, None) for name in ("forward", "view")]
            return MODULES[base] if same else None
    declared = (*MONOTONE_ACTIVATIONS, *(MONOTONE_OPERATIONS - {View}))
    return _monotone if kind in declared else None
