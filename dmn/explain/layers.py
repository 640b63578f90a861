"""Where to read a network that one does not know."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dmn.explain.stream import eval_mode

Seen = list[tuple[str, nn.Module, torch.Size]]


def last_stage(model: nn.Module, x: Tensor) -> str:
    """Name the layer that class activation maps are usually read at.

    It is the last one whose output is still as large as that of the convolution that runs last:
    "layer4" of a ResNet-18, "features.29" of a VGG16.

    Args:
        model: Any network; of one without convolutions it is "input".
        x: Images (B, C, H, W); one will do.
    """
    seen: Seen = []
    with ExitStack() as hooks, torch.no_grad(), eval_mode(model):
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(_note, seen, name)))
        model(x)
    convolutions = [i for i, (_, module, _) in enumerate(seen) if isinstance(module, nn.Conv2d)]
    if not convolutions:
        return "input"
    layer, _, size = seen[convolutions[-1]]
    for name, module, other in seen[convolutions[-1] :]:
        if other[2:] != size[2:] or isinstance(module, nn.AdaptiveAvgPool2d) or not name:
            break
        layer = name
    return layer


def _note(seen: Seen, name: str, module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        seen.append((name, module, output.shape))
