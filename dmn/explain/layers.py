"""Find the layers of an unknown network that hold images, and the one to read."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dmn.explain.read import eval_mode_with_grad
from dmn.nn import Grid, GridFinder, eval_mode, predict_logits

Outputs = list[tuple[str, nn.Module, torch.Size]]


def find_grids(model: nn.Module, x: Tensor) -> dict[str, Grid | None]:
    """Find how the output of every layer that runs holds an image.

    Args:
        model: Any network.
        x: Images (B, C, H, W), signals (B, C, L) or volumes (B, C, D, H, W); one is enough.

    Returns:
        By the layers' names, in the order in which they return; None for an output without an
        image. See `dmn.nn.GridFinder`, also for what cannot be found. Of a layer that is called
        several times the last output counts. Layers that return no single tensor are left out.
    """
    x = two_images(x)
    finder = GridFinder(x.shape)
    grids: dict[str, Grid | None] = {}

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            grids.pop(name, None)
            grids[name] = finder.find(output.shape, last_features(module))

    with ExitStack() as hooks, torch.no_grad(), eval_mode(model):
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        predict_logits(model, x)
    return grids


def two_images(x: Tensor) -> Tensor:
    """Return two images, so that what depends on none of them shows by its shape."""
    return x[:2] if len(x) > 1 else torch.cat([x, x])


def last_stage(model: nn.Module, x: Tensor) -> str:
    """Name the layer that class activation maps are usually read at.

    It is the last layer with weights whose output still has positions, together with the layers
    that follow it and keep the positions: "layer4" of a ResNet-18, "features.29" of a VGG16,
    "permute" of a Swin.

    A network that has tokens to the end is read at the last layer whose tokens of the image have an
    effect on the largest logit, measured by a gradient on x, or on the head's features where its
    weights are still 0. If the head reads a class token, that
    is the norm before the last attention, "blocks.11.norm1" of timm's ViT-B; if it reads the mean
    of all tokens, the last norm or block. Projections and convolutions do not count there, as
    their features are of attention or an MLP, not of the tokens.

    Args:
        model: Any network. The result is "input" if no other layer holds an image.
        x: Images (B, C, H, W), signals (B, C, L) or volumes (B, C, D, H, W); one is enough.

    Raises:
        UnsupportedError: for a network with tokens whose weights were made in inference mode.
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
    if not spatial:
        return "input"
    if len(outputs[spatial[-1]][2]) != x.dim():
        return _last_tokens(model, x)
    layer, _, size = outputs[spatial[-1]]
    for name, _, shape in outputs[spatial[-1] :]:
        moved = shape.numel() == size.numel()  # such as channels, to come first
        if not name or len(shape) != x.dim() or not (moved or shape[2:] == size[2:]):
            break
        layer, size = name, shape
    return layer


def _last_tokens(model: nn.Module, x: Tensor) -> str:
    """Name the last layer whose tokens have an effect on the largest logit."""
    grids = {
        name: grid for name, grid in find_grids(model, x).items() if grid and max(grid.sides) > 1
    }
    outputs: dict[str, Tensor] = {}
    head: list[Tensor] = []

    def keep(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.pop(name, None)
        outputs[name] = output

    def keep_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        head[:] = [arg for arg in args[:1] if isinstance(arg, Tensor) and arg.requires_grad]

    with ExitStack() as hooks, eval_mode_with_grad(model):
        for name, module in model.named_modules():
            if projects(module):
                hooks.enter_context(module.register_forward_pre_hook(keep_input))
            elif name in grids:
                hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        logits = predict_logits(model, x.detach().clone().requires_grad_())
        names, last = list(outputs), "input"
        for score in (logits.amax(dim=1).sum(), *map(_mixed, head)):
            found = torch.autograd.grad(
                score, list(outputs.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None and grids[name].to_image(gradient).any():
                    last = name
            if last != "input":
                break
    return last


def _mixed(features: Tensor) -> Tensor:
    """Return a sum of features with different weights, as that of normed ones is constant."""
    return (features * torch.linspace(1, 2, features.shape[-1]).to(features)).sum()


def projects(module: nn.Module) -> bool:
    """Return whether a module is one linear map or convolution, by the shapes of its weights."""
    weights = module.parameters(recurse=False)
    return any(sum(side > 1 for side in weight.shape) > 1 for weight in weights)


def last_features(layer: nn.Module) -> int | None:
    """Return the size of the last axis of what a linear layer or layer norm returns.

    Args:
        layer: Any; of a block, the last module with weights counts. None for other modules.
    """
    weighted = [module for module in layer.modules() if any(True for _ in module.parameters(False))]
    last = weighted[-1] if weighted else None
    if isinstance(last, nn.LayerNorm):
        return last.normalized_shape[-1]
    return last.out_features if isinstance(last, nn.Linear) else None


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) or is_parametrized(module)


def _has_positions(shape: torch.Size) -> bool:
    """Return whether an output has both channels and positions, in any order."""
    return sum(length > 1 for length in shape[1:]) > 1


def _record(outputs: Outputs, name: str, module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        outputs.append((name, module, output.shape))
