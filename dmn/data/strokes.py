"""Bent strokes and ink in bright colours, drawn on images from uniform random numbers."""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor

STROKE_LENGTH = (0.12, 0.3)  # of a distractor, as a share of the image's side
THICKNESS = (0.015, 0.035)  # half of a stroke's, as a share of the image's side
DARKEST = 0.4  # of a stroke's channels
BEND = 0.5  # largest offset of a stroke's middle, as a share of its length
POINTS = 24  # of a curve
DRAWS_PER_STROKE = 9  # place, angle, length, bend, thickness, colour


def draw_curves(draws: Tensor, size: int) -> Tensor:
    """Draw bent strokes as ink (B, 1, S, S): quadratic Bezier curves with a thickness.

    Args:
        draws: (B, 6 or more), each in [0, 1): place, angle, length, bend and thickness.
        size: Side of the image in pixels.
    """
    centre = draws[:, 0:2]
    angle = 2 * math.pi * draws[:, 2]
    along = torch.stack([angle.cos(), angle.sin()], 1) * interpolate(STROKE_LENGTH, draws[:, 3:4])
    across = torch.stack([-along[:, 1], along[:, 0]], 1) * BEND * (2 * draws[:, 4:5] - 1)
    start, end, control = centre - along / 2, centre + along / 2, centre + 2 * across
    axis = (torch.arange(size) + 0.5) / size
    nearest = torch.full((len(draws), size, size), math.inf)
    for t in torch.linspace(0, 1, POINTS).tolist():
        point = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        right, down = (axis - point[:, :, None]).square().unbind(dim=1)
        nearest = torch.minimum(nearest, right[:, None, :] + down[:, :, None])
    thickness = interpolate(THICKNESS, draws[:, 5])[:, None, None]
    return ((thickness - nearest.sqrt()) * size + 0.5).clamp(0, 1).unsqueeze(1)


def paint(x: Tensor, ink: Tensor, draws: Tensor) -> Tensor:
    """Draw ink (B, 1, S, S) on images (B, 3, S, S), in bright colours by draws (B, 3)."""
    colour = interpolate((DARKEST, 1.0), draws)[:, :, None, None]
    return x * (1 - ink) + colour * ink


@overload
def interpolate(limits: tuple[float, float], share: Tensor) -> Tensor: ...
@overload
def interpolate(limits: tuple[float, float], share: float) -> float: ...
def interpolate(limits: tuple[float, float], share: Tensor | float) -> Tensor | float:
    """Return the number at a share of the way from the lower limit to the upper one."""
    low, high = limits
    return low + (high - low) * share
