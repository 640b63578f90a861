"""From a picture of any size to what a network takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from dmn.hub.cards import LARGEST_IMAGE

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601, as Pillow's


def preprocess(
    size: Sequence[int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    picture: Any,
) -> Tensor:
    """Scale a picture, crop it to the centre, and normalise it.

    Args:
        size: Channels, height and width that are wanted; None keeps what the picture has.
        mean: Subtracted from each channel; None for 0.
        std: What each channel is then divided by; None for 1.
        picture: A PIL image, or a tensor (C, H, W), uint8 or in [0, 1].

    Returns:
        The image, (C, H, W).
    """
    if not isinstance(picture, Tensor):
        picture = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    x: Tensor = picture / 255 if picture.dtype == torch.uint8 else picture.float()
    if size is not None:
        channels, *sides = size
        if channels == 1 and len(x) == 3:
            x = (x * per_channel(LUMINANCE, 0.0)).sum(0, keepdim=True)
        x = crop(x.expand(channels, -1, -1), *sides)
    return (x - per_channel(mean, 0.0)) / per_channel(std, 1.0)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Resize an image so that it just covers a size, and cut its centre out.

    Where the whole image would get too large, its centre is cut out first.

    Args:
        x: (C, H, W).
        height: Wanted.
        width: Wanted.
    """
    scale = max(height / x.shape[1], width / x.shape[2])
    covering = [max(round(x.shape[1] * scale), height), max(round(x.shape[2] * scale), width)]
    if len(x) * math.prod(covering) > LARGEST_IMAGE:
        needed = [math.ceil(side / scale) for side in (height, width)]
        x = _centre(x, min(needed[0], x.shape[1]), min(needed[1], x.shape[2]))
        covering = [height, width]
    x = F.interpolate(x[None], covering, mode="bilinear", antialias=True)[0]
    return _centre(x, height, width)


def as_picture(picture: Any, channels: int = 3) -> Any:
    """Return a picture as a PIL image, which other libraries' transforms take.

    Args:
        picture: A PIL image, or a tensor (C, H, W), uint8 or in [0, 1]; the latter is rounded to 8
            bits, as pictures are.
        channels: Grey if 1, else RGB.
    """
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8:
            picture = (picture.float() * 255).round().clamp(0, 255).to(torch.uint8)
        picture = to_pil_image(picture)
    return picture.convert("L" if channels == 1 else "RGB")


def per_channel(values: Sequence[float] | None, default: float) -> Tensor:
    """Return numbers, one for all channels or one for each, as (C, 1, 1)."""
    return torch.tensor(values or (default,)).view(-1, 1, 1)


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
