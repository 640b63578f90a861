"""Networks whose weights are in random order, layer by layer.

Randomised weights are the layer's own, reordered. So activations keep their scale, as they hardly
do when layers are initialised anew beside trained statistics of a batch normalisation, and
nonnegative weights stay nonnegative. A layer's vectors (its bias; scale, shift and statistics of a
normalisation) are reordered together, so that each channel's mean still belongs to its variance.

Source: Adebayo et al. 2018, "Sanity checks for saliency maps"; Binder et al. 2023, "Shortcomings of
top-down randomization-based sanity checks for evaluations of deep neural network explanations", who
ask for sensitivity to "a random permutation of parameters".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from dmn.errors import UnsupportedError
from dmn.nn import network_name, predict_logits

DEPTHS = 5  # at most, to which a network is randomised


def layer_blocks(model: nn.Module, example: Tensor) -> list[list[str]]:
    """Divide a network's layers into up to 5 consecutive blocks of about equally many depths.

    The depth of a layer is the longest way from the logits to its parameters, so that layers side
    by side, as those of a pair g - h, are randomised together. A layer without a matrix or kernel,
    such as a batch normalisation, belongs to the one with weights before it.

    Args:
        model: In eval mode; it is not changed.
        example: One image, (1, C, H, W).

    Returns:
        Names of modules, from the image to the logits.

    Raises:
        UnsupportedError: if no weights lead to the logits.
    """
    copy = deepcopy(model).requires_grad_(True)
    with torch.enable_grad():
        ways = _longest_ways(predict_logits(copy, example))
    layers: dict[str, int] = {}
    levels: set[int] = set()  # ways to layers with weights
    for name, module in copy.named_modules():
        own = [each for each in module.parameters(recurse=False) if id(each) in ways]
        if own:
            layers[name] = max(ways[id(each)] for each in own)
            if any(each.dim() > 1 for each in own):
                levels.add(layers[name])
    if not levels:
        raise UnsupportedError(
            f"{network_name(model)} has no weights to randomise on the way to its logits; score "
            "a network with convolutions or linear layers"
        )
    blocks: list[list[str]] = [[] for _ in range(min(DEPTHS, len(levels)))]
    for name, way in sorted(layers.items(), key=lambda layer: -layer[1]):
        level = sum(each >= way for each in levels) - 1
        blocks[max(0, level) * len(blocks) // len(levels)].append(name)
    return blocks


def randomise(model: nn.Module, names: Iterable[str], seed: int) -> nn.Module:
    """Return a copy of a network with layers whose parameters are in random order.

    The order depends on the seed and on the layer, not on which other layers are randomised.

    Args:
        model: The network; it is not changed.
        names: Names of modules; their own parameters are reordered, not those of modules in them.
        seed: For the order, at least 0.
    """
    copy, chosen = deepcopy(model), set(names)
    done: set[int] = set()
    for index, (name, module) in enumerate(copy.named_modules()):
        if name in chosen:
            _shuffle(module, torch.Generator().manual_seed(1_000_003 * seed + index), done)
    return copy


@torch.no_grad()
def _shuffle(module: nn.Module, generator: torch.Generator, done: set[int]) -> None:
    """Reorder a module's own weights, each on its own, and its own vectors together."""
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    orders: dict[int, Tensor] = {}
    for tensor in tensors:
        if id(tensor) in done or not tensor.is_floating_point():
            continue
        done.add(id(tensor))
        if tensor.dim() > 1 and isinstance(tensor, nn.Parameter):
            order = torch.randperm(tensor.numel(), generator=generator)
            values = tensor.flatten()[order.to(tensor.device)].view_as(tensor)
            tensor.copy_(values)
        elif tensor.dim() == 1:
            if len(tensor) not in orders:
                orders[len(tensor)] = torch.randperm(len(tensor), generator=generator)
            tensor.copy_(tensor[orders[len(tensor)].to(tensor.device)])


def _longest_ways(logits: Tensor) -> dict[int, int]:
    """Return the most steps from the logits back to each parameter, by its identity."""
    follows: dict[Any, list[Any]] = {}
    reached = [logits.grad_fn] if logits.grad_fn else []
    while reached:
        node = reached.pop()
        if node not in follows:
            follows[node] = [each for each, _ in node.next_functions if each is not None]
            reached.extend(follows[node])
    waiting = Counter(each for others in follows.values() for each in others)
    ways = dict.fromkeys(follows, 0)
    ready = [node for node in follows if not waiting[node]]
    while ready:
        node = ready.pop()
        for other in follows[node]:
            ways[other] = max(ways[other], ways[node] + 1)
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    return {id(node.variable): way for node, way in ways.items() if hasattr(node, "variable")}
