"""Bicubic interpolation: its weights have both signs, so that s needs their absolute values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.rules.base import Absolute
from dmn.rules.call import Call

_OPTIONS = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")


def interpolation_bound(
    x: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Interpolate by the absolute values of the weights of bicubic interpolation.

    It multiplies the rows and the columns by weights of their own, so that the absolute value of
    each weight is a product of two.

    Args:
        x: (B, C, H, W).
        size: Height and width of the output, or one number for both; None if there is a scale.
        scale_factor: Likewise, in units of those of the input.
        align_corners: As for `torch.nn.functional.interpolate`.
        recompute_scale_factor: As for `torch.nn.functional.interpolate`.
        antialias: As for `torch.nn.functional.interpolate`.

    Returns:
        (B, C, H', W').

    Source: Keys 1981, Cubic Convolution Interpolation for Digital Image Processing.
    """
    options: dict[str, Any] = {
        "align_corners": align_corners,
        "recompute_scale_factor": recompute_scale_factor,
        "antialias": antialias,
    }
    rows, columns = (
        _weights(x, axis, _of_axis(size, axis), _of_axis(scale_factor, axis), options).abs()
        for axis in (0, 1)
    )
    return rows @ x @ columns.T


def _of_axis(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, (tuple, list)) else value


def _weights(
    x: Tensor, axis: int, size: int | None, scale: float | None, options: dict[str, Any]
) -> Tensor:
    """Return the weights of one axis, (output, input), from columns with a single 1.

    Each column is there twice: torch 2.14 interpolates images of width 1 with antialiasing as if
    all places were the first one.
    """
    length = x.shape[2 + axis]
    columns = torch.eye(length, dtype=x.dtype, device=x.device)
    result = F.interpolate(
        columns.view(1, length, length, 1).expand(-1, -1, -1, 2).contiguous(),
        None if size is None else (size, 2),
        None if scale is None else (scale, 1.0),
        mode="bicubic",
        **options,
    )
    return result[0, :, :, 0].T


def _absolute(call: Call, s: Tensor) -> Tensor:
    given = {name: call.option(name, place) for place, name in enumerate(_OPTIONS, start=1)}
    del given["mode"]
    return interpolation_bound(s, **{**given, "antialias": bool(given["antialias"])})


BICUBIC = Absolute(_absolute)
