"""Operations with weights: the bounds of their weights for s, and their transposes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dmn.rules.base import Rule, Slope
from dmn.rules.call import Call
from dmn.rules.scaled import is_symbolic

BLOCK = 2**19  # weights  # of a matrix, made at a time
SLACK = "_slack"  # suffix of the parameter that loosens the bound of W: V = |W| (1 + slack)


def bounds(module: nn.Module) -> dict[str, Tensor]:
    """Return V >= |W| by the name of each parameter W: the factor of s where W is that of u."""
    parameters = dict(module.named_parameters())
    return {
        name: _bound(weight, parameters.get(name + SLACK))
        for name, weight in parameters.items()
        if not name.endswith(SLACK)
    }


def _bound(weight: Tensor, slack: Tensor | None) -> Tensor:
    return weight.abs() if slack is None else weight.abs() * (1 + slack)


class Linear(Rule):
    """The rule of a convolution, a linear layer, or your own module that is linear in its input.

    The module must be linear in every parameter, and parameters named "bias" must be constants that
    are added. For your own module, leave all options out.

    Args:
        transposed: Propagates a signal back by a weight without running forward, given the call,
            the weight and the signal.
        is_plain: Whether `transposed` can do so, given the call; always by default.
        by_rows: Whether the first axis of the weight belongs to the channels of the output.
        on_vectors: Whether the operation has no positions.

    Examples:
        >>> from dmn.split import split
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.tensor([-1.0, 2.0]).view(2, 1, 1))
        ...     def forward(self, x):
        ...         return x * self.weight
        >>> add_rule(Scale, Linear())
        >>> split(nn.Sequential(Scale(), nn.Flatten()), torch.randn(3, 2, 4, 4)).layers
        ('input', '0')
    """

    weighted = True
    symmetric = False

    def __init__(
        self,
        transposed: Callable[[Call, Tensor, Tensor], Tensor] | None = None,
        is_plain: Callable[[Call], bool] = lambda call: True,
        by_rows: bool = True,
        on_vectors: bool = False,
    ) -> None:
        self.transposed, self.is_plain = transposed, is_plain
        self.by_rows, self.on_vectors = by_rows, on_vectors

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        return self._absolute(call, unit)(*s)

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        if call.recorded or self.transposed is None:
            return call.vjp(q)
        return [self.transposed(call, call.option("weight", 1), q)]

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        if self.transposed is None or not self.is_plain(call):
            return call.transposed(self._absolute(call), a)
        return [self.transposed(call, self._bound(call), a)]

    def p_back(self, call: Call, q: Tensor, ratio: Slope) -> list[Tensor]:
        transposed, weight = self.transposed, call.option("weight", 1)
        if transposed is None or not self.is_plain(call):
            return super().p_back(call, q, ratio)
        if isinstance(ratio, float):
            if ratio == 0:
                return [transposed(call, weight, q / 2)]
            return [transposed(call, _half_sum(weight, self._bound(call), ratio), q)]
        if not self.by_rows or weight.dim() != q.dim():
            return super().p_back(call, q, ratio)
        rows = ratio.view(-1, *[1] * (q.dim() - 1))
        return [transposed(call, _half_sum(weight, self._bound(call), rows), q)]

    def needs_recording(self, call: Call) -> bool:
        return self.transposed is None or not self.is_plain(call)

    @staticmethod
    def _bound(call: Call) -> Tensor:
        return _bound(call.option("weight", 1), call.option("weight" + SLACK, 99))

    def _absolute(self, call: Call, unit: float = 1.0) -> Callable[..., Tensor]:
        module = call.module
        if module is None:
            return lambda *s: call.run(_absolute_function(call, unit), s)
        weights = {
            name: bound * unit if name.endswith("bias") else bound
            for name, bound in bounds(module).items()
        }
        return lambda *s: call.run(lambda *a, **k: functional_call(module, weights, a, k), s)


class ChannelAffine(Rule):
    """Batch normalisation by its running statistics: a scale and a shift for each channel."""

    weighted = True
    symmetric = False

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        scale, shift = self._scale_and_shift(call)
        return torch.addcmul(shift.abs() * unit, s[0], scale.abs())

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        return call.vjp(q) if call.recorded else [q * self._scale_and_shift(call)[0]]

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        scale, _ = self._scale_and_shift(call)
        return [a * scale.abs()]

    def ratio_back(self, call: Call, ratio: Slope) -> Slope | None:
        scale, _ = self._scale_and_shift(call)
        return scale.sign() * ratio

    def needs_recording(self, call: Call) -> bool:
        return False

    @staticmethod
    def _scale_and_shift(call: Call) -> tuple[Tensor, Tensor]:
        if call.affine is not None:
            return call.affine
        mean, variance = call.option("running_mean", 1), call.option("running_var", 2)
        weight, bias = call.option("weight", 3), call.option("bias", 4)
        scale = torch.rsqrt(variance + call.option("eps", 7, 1e-5))
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (-1, *[1] * (len(call.out_shape) - 2))
        call.affine = scale.view(shape), shift.view(shape)
        return call.affine


class Matrix(Linear):
    """A linear layer. Its weight may be large: V = |W| is made a few rows at a time."""

    def __init__(self) -> None:
        super().__init__(lambda call, weight, signal: signal @ weight, on_vectors=True)

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        if call.option("weight" + SLACK, 99) is not None or self._is_small(call):
            return super().sums(call, u, out, s, unit)
        bias, result = call.option("bias", 2), torch.empty_like(out)
        for rows, bound in self._pieces(call):
            constant = None if bias is None else bias[rows].abs() * unit
            result[..., rows] = F.linear(s[0], bound, constant)
        return result

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        if call.option("weight" + SLACK, 99) is not None or self._is_small(call):
            return super().sum_back(call, a)
        signals = a.reshape(-1, a.shape[-1])
        result = a.new_zeros(len(signals), call.shapes[0][-1])
        for rows, bound in self._pieces(call):
            result.addmm_(signals[:, rows], bound)
        return [result.view(call.shapes[0])]

    def p_back(self, call: Call, q: Tensor, ratio: Slope) -> list[Tensor]:
        if isinstance(ratio, float) and ratio == 0:
            return super().p_back(call, q, ratio)
        return Rule.p_back(self, call, q, ratio)  # not by one weight, which would be made whole

    @staticmethod
    def _is_small(call: Call) -> bool:
        """Return whether V takes less memory than tokens do, so that it may be made whole."""
        if any(map(is_symbolic, call.shapes[0])):  # in the program V becomes a constant
            return True
        tokens = len(call.shapes[0]) > 2
        return tokens and call.option("weight", 1).numel() <= call.shapes[0].numel()

    @staticmethod
    def _pieces(call: Call) -> Iterator[tuple[slice, Tensor]]:
        weight = call.option("weight", 1)
        count = max(1, BLOCK // weight.shape[1])
        for start in range(0, len(weight), count):
            rows = slice(start, start + count)
            yield rows, weight[rows].abs()


def _half_sum(weight: Tensor, bound: Tensor, ratio: Slope) -> Tensor:
    """Return (W + ratio V) / 2, in the memory of V."""
    return bound.mul_(ratio / 2).add_(weight, alpha=0.5)


def _absolute_function(call: Call, unit: float) -> Callable[..., Tensor]:
    """Return a function such as `conv2d` with its weight's and bias' absolute values."""
    weight, bias = call.option("weight", 1), call.option("bias", 2)

    def absolute(*args: Any, **kwargs: Any) -> Tensor:
        x = args[0] if args else kwargs["input"]
        named = ("input", "weight", "bias")
        options = {key: value for key, value in kwargs.items() if key not in named}
        constant = None if bias is None else bias.abs() * unit
        result: Tensor = call.function(x, weight.abs(), constant, *args[3:], **options)
        return result

    return absolute
