"""Backward operations, written by forward ones: ONNX has no counterparts of them.

Only the input's gradient is written, of networks in eval mode: an explanation needs no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions

from dmn.errors import UnsupportedError

aten = torch.ops.aten
InputOnly = tuple[Tensor, None, None]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return what rewrites each backward operation, and the compound ones of torch."""
    return {
        **core_aten_decompositions(),
        aten.convolution_backward.default: _convolution,
        aten.max_pool2d_with_indices_backward.default: _max_pool,
        aten.avg_pool2d_backward.default: _avg_pool,
        aten._adaptive_avg_pool2d_backward.default: _adaptive_avg_pool,
        aten.native_batch_norm_backward.default: _batch_norm,
        aten.fill_.Tensor: _fill,
    }


def _convolution(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> InputOnly:
    """Convolve by the transpose, without strides by the flipped kernel: runtimes do it faster."""
    _require_input_only(mask)
    sides = weight.shape[2:]
    if transposed:
        args = (stride, padding, dilation, False, [0] * len(sides), groups)
        return aten.convolution(gradient, weight, None, *args), None, None
    reach = [gap * (side - 1) for gap, side in zip(dilation, sides, strict=True)]
    margins = [far - near for far, near in zip(reach, padding, strict=True)]
    if set(stride) == {1} and min(margins, default=0) >= 0:
        args = (stride, margins, dilation, False, [0] * len(sides), groups)
        return aten.convolution(gradient, _flipped(weight, groups), None, *args), None, None
    left_over = [
        length - ((count - 1) * step - 2 * near + far + 1)
        for length, count, step, near, far in zip(
            x.shape[2:], gradient.shape[2:], stride, padding, reach, strict=True
        )
    ]
    args = (stride, padding, dilation, True, left_over, groups)
    return aten.convolution(gradient, weight, None, *args), None, None


def _flipped(weight: Tensor, groups: int) -> Tensor:
    """Return the kernel of the transpose: mirrored, its outputs and inputs exchanged."""
    out_channels, in_channels, *sides = weight.shape
    flipped = weight.flip(tuple(range(2, weight.dim())))
    by_group = flipped.reshape(groups, out_channels // groups, in_channels, *sides)
    return by_group.transpose(1, 2).reshape(groups * in_channels, out_channels // groups, *sides)


def _max_pool(
    gradient: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Add each number where its maximum was found."""
    flat = torch.zeros_like(x).flatten(2)
    added = flat.scatter_add(2, indices.flatten(2), gradient.flatten(2))
    return added.view(x.shape)


def _avg_pool(
    gradient: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Spread each number over its window; the axes are separable but for an own divisor."""
    sizes = list(kernel_size) * (2 // len(kernel_size))
    steps = list(stride or kernel_size) * (2 // len(stride or kernel_size))
    margins = list(padding) * (2 // len(padding))
    for axis in (0, 1):
        size, step, margin = sizes[axis], steps[axis], margins[axis]
        length, count = x.shape[2 + axis], gradient.shape[2 + axis]
        windows, divisors = [], []
        for start in range(-margin, count * step - margin, step):
            end = min(start + size, length + margin)
            windows.append(range(max(start, 0), min(end, length)))
            divisors.append(end - start if count_include_pad else len(windows[-1]))
        if divisor_override:
            divisors = [1 if axis else divisor_override] * count
        gradient = _spread(gradient, windows, divisors, length, axis)
    return gradient


def _adaptive_avg_pool(gradient: Tensor, x: Tensor) -> Tensor:
    """Spread each number over its cell, one axis after the other."""
    for axis in (0, 1):
        length, count = x.shape[2 + axis], gradient.shape[2 + axis]
        cells = [
            range(index * length // count, -((index + 1) * length // -count))
            for index in range(count)
        ]
        gradient = _spread(gradient, cells, [len(cell) for cell in cells], length, axis)
    return gradient


def _spread(
    gradient: Tensor, windows: Sequence[range], divisors: Sequence[int], length: int, axis: int
) -> Tensor:
    """Divide numbers and spread them over windows, along the height, 0, or the width, 1."""
    rows = [
        [(place in window) / divisor for place in range(length)]
        for window, divisor in zip(windows, divisors, strict=True)
    ]
    shares = torch.tensor(rows, dtype=gradient.dtype)
    return gradient @ shares if axis else shares.T @ gradient


def _fill(x: Tensor, value: Tensor) -> Tensor:
    """Copy a number to all places; torch's exporter loses the shape otherwise."""
    return x.copy_(value.expand(x.shape))


def _batch_norm(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    saved_mean: Tensor | None,
    saved_scale: Tensor | None,
    train: bool,
    epsilon: float,
    mask: Sequence[bool],
) -> InputOnly:
    """Multiply by what each channel is multiplied by."""
    _require_input_only(mask)
    if train or variance is None:
        raise UnsupportedError("batch norm without running statistics cannot be exported")
    factor = torch.rsqrt(variance + epsilon)
    factor = factor if weight is None else factor * weight
    return gradient * factor.view(-1, *[1] * (gradient.dim() - 2)), None, None


def _require_input_only(mask: Sequence[bool]) -> None:
    if list(mask) != [True, False, False]:
        raise UnsupportedError("the gradient of weights cannot be exported; freeze the network")
