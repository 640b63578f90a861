"""The structural similarity of maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7  # side in pixels
LUMINANCE, CONTRAST = 0.01, 0.03  # constants of the definition, as shares of the values' range
RANGE = 2.0  # of maps that were divided by their largest absolute value


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (SSIM) of maps, each divided by its largest absolute value.

    It is the mean over all square windows of 7 pixels, or of the map's shorter side if that is
    less. Windows without values are similar, so maps of few values are, too; and a window whose
    mean and whose deviations both have the other sign is similar, as -1 times -1 is 1.

    Args:
        a: Maps (B, 1, H, W).
        b: Maps of the same shape.

    Returns:
        From -1 to 1, (B,), float64; NaN for maps that are not finite.

    Source: Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment: from error visibility
    to structural similarity", equation 13, with uniform windows.
    """
    side = min(WINDOW, *a.shape[-2:])
    a, b = (_normalise(maps.double()) for maps in (a, b))

    def mean(values: Tensor) -> Tensor:
        means: Tensor = F.avg_pool2d(values, side, stride=1)
        return means

    unbiased = side**2 / max(1, side**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    variances = unbiased * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (LUMINANCE * RANGE) ** 2, (CONTRAST * RANGE) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    similarity: Tensor = (luminance * structure).mean(dim=(1, 2, 3))
    return similarity


def _normalise(maps: Tensor) -> Tensor:
    return maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo().tiny)
