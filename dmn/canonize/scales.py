"""Layer scales and the like, put into the linear operation before or those after them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from dmn.canonize.affine import Affine, shape_of
from dmn.canonize.following import fold_into_uses
from dmn.canonize.modules import Layers
from dmn.canonize.moves import Moves
from dmn.canonize.weights import OUTPUT_AXES, fold_outputs, is_read, tensor_users
from dmn.graph.trace import rename, target_of
from dmn.nn.attention import AttentionOutput


def fold_scale(moves: Moves, layers: Layers, affine: Affine) -> bool:
    """Fold a scale and shift that moves and averages separate from linear operations, if exact.

    Args:
        moves: Of a network that was traced with an example; without one, nothing is folded.
        layers: Nodes by name.
        affine: A scale and shift by constants.

    Returns:
        Whether it was folded and removed.
    """
    shape = shape_of(affine.source)
    if shape is None or shape != shape_of(affine.node):  # expanded by what it is multiplied by
        return False
    folded = _fold_into_preceding(moves, affine) or _fold_into_following(moves, layers, affine)
    return folded and remove(moves.network, affine)


def remove(network: fx.GraphModule, affine: Affine) -> bool:
    """Give what takes a scale and shift its input."""
    rename(network, affine.node, affine.source)
    affine.node.replace_all_uses_with(affine.source)
    for node in reversed(affine.nodes):
        node.graph.erase_node(node)
    return True


def _elements(affine: Affine) -> Tensor:
    """Return which element of its scale and shift each number is for, counted from 1."""
    shape = shape_of(affine.node)
    assert shape is not None, "checked before"
    scale, _ = affine.broadcast(len(shape))
    count = torch.arange(1, scale.numel() + 1, dtype=torch.float64)
    return count.view(scale.shape).expand(shape)


def _fold_into_following(moves: Moves, layers: Layers, affine: Affine) -> bool:
    elements = _elements(affine)
    scale, shift = (value.flatten() for value in affine.broadcast(elements.dim()))
    reason = fold_into_uses(moves, layers, affine.node, elements, scale, shift)
    return not reason


def _fold_into_preceding(moves: Moves, affine: Affine) -> bool:
    crossed, node = [], affine.source
    while moves.is_move(node) and len(tensor_users(node)) == 1:
        crossed.append(node)
        node = node.all_input_nodes[0]
    linear, shape = _linear_module(moves.network, node), shape_of(node)
    if linear is None or shape is None or len(tensor_users(node)) > 1:
        return False
    axis = len(shape) - 1 if isinstance(linear, nn.Linear) else 1
    count = torch.arange(1, shape[axis] + 1, dtype=torch.float64)
    channels = count.view(-1, *[1] * (len(shape) - 1 - axis)).expand(shape)
    for following in reversed(crossed):
        moved = moves.after(following, node, channels)
        if moved is None:
            return False
        node, channels = following, moved
    return _scale_outputs(linear, channels, affine, shape[axis])


def _linear_module(network: fx.GraphModule, node: fx.Node) -> Any:
    """Return the module whose outputs a node returns, if it is linear and nothing else uses it."""
    module: Any = target_of(network, node) if node.op == "call_module" else None
    if isinstance(module, AttentionOutput):
        module = module.out_proj
    elif type(module) not in OUTPUT_AXES:
        return None
    return None if is_read(network, node) else module


def _scale_outputs(linear: Any, channels: Tensor, affine: Affine, count: int) -> bool:
    """Scale and shift outputs, if there is a single scale and shift for each."""
    places, elements = channels.long().flatten() - 1, _elements(affine).long().flatten() - 1
    element = torch.full((count,), -1)
    element[places] = elements
    if not torch.equal(element[places], elements):
        return False
    scale, shift = (value.flatten()[element] for value in affine.broadcast(channels.dim()))
    unused = element < 0  # of channels that were cut away
    fold_outputs(linear, scale.masked_fill(unused, 1), shift.masked_fill(unused, 0))
    return True
