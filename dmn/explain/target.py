"""Which class an explanation is for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmn.explain.stream import eval_mode
from dmn.nn import Pair

Target = int | Tensor | None


@torch.no_grad()
def resolve_target(model: nn.Module | Pair, x: Tensor, target: Target) -> Tensor:
    """Turn a target into one class index an image.

    Args:
        model: The classifier, asked in eval mode and only where the target is None.
        x: Images (B, C, H, W).
        target: A class index for all images, a tensor of them (B,), or None for the predicted ones.

    Returns:
        Class indices (B,), on the images' device.
    """
    if target is None:
        with eval_mode(model):
            logits: Tensor = model(x)
        return logits.argmax(dim=1)
    if isinstance(target, int):
        return torch.full((len(x),), target, device=x.device)
    return target.to(x.device)
