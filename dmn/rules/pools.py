"""Max pooling of streams, in two forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.nn import Pool
from dmn.rules.base import Rule, Signals, scale_by
from dmn.rules.call import Call
from dmn.rules.operations import Operation, per_axis


class WinnerPool(Rule):
    """Max pooling that takes both streams from the position of the largest u; not monotone.

    Args:
        indexed: Returns the maxima and their indices, given the call and u.
    """

    moves = True

    def __init__(self, indexed: Callable[[Call, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.indexed = indexed

    def preserves(self, call: Call) -> tuple[bool, bool]:
        return False, False

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        _, indices = self.indexed(call, u[0])
        return s[0].flatten(2).gather(2, indices.flatten(2)).view_as(out)


class ConvexPool(Rule):
    """Max pooling of p + the others' n: monotone and convex in the streams, but it grows.

    Args:
        window_sum: Sums over each window, given the call, a tensor and the shape that comes out.
    """

    nonlinear = True
    symmetric = False

    def __init__(self, window_sum: Callable[[Call, Tensor], Tensor]) -> None:
        self.window_sum = window_sum

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        return scale_by(out, unit) + self.window_sum(call, s[0] - scale_by(u[0], unit))

    def back(self, call: Call, q: Tensor | None, a: Tensor | None) -> tuple[Signals, Signals]:
        if a is None:
            return None if q is None else call.vjp(q), None
        (spread,) = call.transposed(lambda s: self.window_sum(call, s), a)
        return [call.vjp(a if q is None else q + a)[0] - spread], [spread]


class MaxPool(WinnerPool):
    """Max pooling in both forms: `WinnerPool`, and `ConvexPool` by `for_pool`."""

    def __init__(
        self,
        indexed: Callable[[Call, Tensor], tuple[Tensor, Tensor]],
        window_sum: Callable[[Call, Tensor], Tensor],
    ) -> None:
        super().__init__(indexed)
        self._convex = ConvexPool(window_sum)

    def for_pool(self, pool: Pool) -> Rule:
        return self._convex if pool == "convex" else self


def _windows(call: Call, dimensions: int) -> dict[str, Any]:
    kernel = call.option("kernel_size", 1)
    stride = call.option("stride", 2)
    return {
        "kernel_size": per_axis(kernel, dimensions),
        "stride": per_axis(kernel if stride is None or stride == [] else stride, dimensions),
        "padding": per_axis(call.option("padding", 3, 0), dimensions),
        "dilation": per_axis(call.option("dilation", 4, 1), dimensions),
    }


def max_pool(dimensions: int) -> Callable[[Operation], Rule | str]:
    """Return the rules of max pooling, winner and convex."""
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dimensions - 1]
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]

    def indexed(call: Call, u: Tensor) -> tuple[Tensor, Tensor]:
        ceil_mode = call.option("ceil_mode", 5, False)
        pooled: tuple[Tensor, Tensor] = pool(
            u, **_windows(call, dimensions), ceil_mode=ceil_mode, return_indices=True
        )
        return pooled

    def window_sum(call: Call, x: Tensor) -> Tensor:
        """Pad to exactly what the windows cover, then convolve with ones."""
        window = _windows(call, dimensions)
        reach = [
            (before, (count - 1) * step + gap * (size - 1) + 1 - length - before)
            for count, length, size, step, before, gap in zip(
                call.out_shape[2:], x.shape[2:], *window.values(), strict=True
            )
        ]
        padded = F.pad(x, [side for pair in reversed(reach) for side in pair])
        ones = x.new_ones(1, 1, *window["kernel_size"])
        single = padded.flatten(0, 1).unsqueeze(1)
        summed: Tensor = convolve(
            single, ones, stride=window["stride"], dilation=window["dilation"]
        )
        return summed.view(call.out_shape)

    return partial(_unless_indices, rule=MaxPool(indexed, window_sum))


def adaptive_max_pool(dimensions: int) -> Callable[[Operation], Rule | str]:
    """Return the rules of max pooling to a size."""
    names = [f"adaptive_{kind}_pool{dimensions}d" for kind in ("max", "avg")]
    maximum, average = (getattr(F, name) for name in names)

    def indexed(call: Call, u: Tensor) -> tuple[Tensor, Tensor]:
        pooled: tuple[Tensor, Tensor] = maximum(
            u, call.option("output_size", 1), return_indices=True
        )
        return pooled

    def window_sum(call: Call, x: Tensor) -> Tensor:
        total: Tensor = average(x, call.option("output_size", 1))
        for axis, (size, length) in enumerate(
            zip(call.out_shape[2:], x.shape[2:], strict=True), start=2
        ):
            cells = torch.arange(size, device=x.device)
            widths = -((cells + 1) * length // -size) - cells * length // size
            total = total * widths.view(-1, *[1] * (x.dim() - 1 - axis))
        return total

    return partial(_unless_indices, rule=MaxPool(indexed, window_sum))


def _unless_indices(operation: Operation, rule: Rule) -> Rule | str:
    if operation.option("return_indices", 99, False):
        return "pooling with return_indices: switch it off"
    return rule
