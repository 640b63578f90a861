"""Which class an explanation is for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Target = int | Tensor | None


@torch.no_grad()
def resolve_target(model: Callable[[Tensor], Tensor], x: Tensor, target: Target) -> Tensor:
    """Turn a target into one class index an image.

    Args:
        model: The classifier, asked only where the target is None.
        x: Images (B, C, H, W).
        target: A class index for all images, a tensor of them (B,), or None for the predicted ones.

    Returns:
        Class indices (B,), on the images' device.
    """
    if target is None:
        return model(x).argmax(dim=1)
    if isinstance(target, int):
        return torch.full((len(x),), target, device=x.device)
    return target.to(x.device)
