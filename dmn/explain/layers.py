"""Find the layer at which to read an unknown network."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dmn.nn import eval_mode

Outputs = list[tuple[str, nn.Module, torch.Size]]


def last_stage(model: nn.Module, x: Tensor) -> str:
    """Name the layer that class activation maps are usually read at.

    It is the last layer with weights whose output still has positions, together with the layers
    that follow it and keep the positions: "layer4" of a ResNet-18, "features.29" of a VGG16,
    "permute" of a Swin.

    Args:
        model: Any network. The result is "input" if the network has tokens to the end, as a ViT, or
            has no positions.
        x: Images (B, C, H, W), signals (B, C, L) or volumes (B, C, D, H, W); one is enough.
    """
    outputs: Outputs = []
    with ExitStack() as hooks, torch.no_grad(), eval_mode(model):
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(_record, outputs, name)))
        model(x)
    spatial = [
        i
        for i, (_, module, size) in enumerate(outputs)
        if _has_weights(module) and _has_positions(size)
    ]
    if not spatial or len(outputs[spatial[-1]][2]) != x.dim():
        return "input"
    layer, _, size = outputs[spatial[-1]]
    for name, _, shape in outputs[spatial[-1] :]:
        moved = shape.numel() == size.numel()  # such as channels, to come first
        if not name or len(shape) != x.dim() or not (moved or shape[2:] == size[2:]):
            break
        layer, size = name, shape
    return layer


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) or is_parametrized(module)


def _has_positions(shape: torch.Size) -> bool:
    """Return whether an output has both channels and positions, in any order."""
    return sum(length > 1 for length in shape[1:]) > 1


def _record(outputs: Outputs, name: str, module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        outputs.append((name, module, output.shape))
