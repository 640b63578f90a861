"""Weights and biases of norms that use the statistics of each image, put into what follows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dmn.canonize.affine import shape_of
from dmn.canonize.following import fold_into_uses
from dmn.canonize.modules import Layers
from dmn.canonize.moves import Moves
from dmn.canonize.weights import is_read
from dmn.graph.trace import Unsupported, describe, target_of

_OF_LAST_AXES = (nn.LayerNorm, nn.RMSNorm, F.layer_norm, torch.layer_norm, F.rms_norm)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_OF_CHANNELS = (nn.GroupNorm, *_INSTANCE, F.group_norm, torch.group_norm)
_NORMS = {*_OF_LAST_AXES, *_OF_CHANNELS, torch.rms_norm}
_POSITIONS = {"weight": 2, "bias": 3}  # among the arguments of a function


class Norm(NamedTuple):
    """A norm that scales and shifts what it has normalised.

    Attributes:
        node: The norm.
        weight: One number per channel, or per place of the axes that are normalised; None for 1.
        bias: Likewise; None for 0.
    """

    node: fx.Node
    weight: Tensor | None
    bias: Tensor | None


class FoldedNorms(NamedTuple):
    """What became of the norms.

    Attributes:
        folded: Module paths of those that were folded.
        left: Those that were not, with the reasons.
    """

    folded: list[str]
    left: list[Unsupported]


def fold_norms(moves: Moves, layers: Layers) -> FoldedNorms:
    """Fold the weight and bias of each norm into the linear operations after it, where exact.

    Args:
        moves: Of the network. What stays of a folded norm is one without weight and bias.
        layers: Nodes by name.
    """
    result = FoldedNorms([], [])
    for norm in _find_norms(moves):
        place, reason = describe(moves.network, norm.node), _fold(moves, layers, norm)
        if reason:
            result.left.append(Unsupported(place, reason))
        else:
            result.folded.append(place)
    return result


def _find_norms(moves: Moves) -> list[Norm]:
    network, norms = moves.network, []
    for node in network.graph.nodes:
        target: Any = target_of(network, node) if node.op.startswith("call") else None
        if type(target) in _NORMS:
            weight, bias = target.weight, getattr(target, "bias", None)
        elif isinstance(target, nn.Module) or target not in _NORMS:
            continue
        else:
            arguments = (_argument(node, name) for name in _POSITIONS)
            weight, bias = (moves.constants.get(value, value) for value in arguments)
        if weight is not None or bias is not None:
            norms.append(Norm(node, weight, bias))
    return norms


def _argument(node: fx.Node, name: str) -> Any:
    if node.target in (F.rms_norm, torch.rms_norm) and name == "bias":
        return None
    position = _POSITIONS[name]
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _fold(moves: Moves, layers: Layers, norm: Norm) -> str:
    """Fold a norm; returns the reason why not, if so."""
    network = moves.network
    if any(isinstance(value, fx.Node) for value in (norm.weight, norm.bias)):
        return "its weight or bias depends on the image"
    if norm.node.op == "call_module" and is_read(network, norm.node):
        return "its weight or bias is used elsewhere, too"
    channels = _channels(network, norm)
    if channels is None:
        return "it is not known where its channels are; pass `example`"
    numbers = (
        None if value is None else value.detach().to("cpu", torch.float64).flatten()
        for value in (norm.weight, norm.bias)
    )
    reason = fold_into_uses(moves, layers, norm.node, channels, *numbers)
    if not reason:
        _remove_affine(network, norm.node)
    return reason


def _channels(network: fx.GraphModule, norm: Norm) -> Tensor | None:
    """Return the channel of each number that the norm returns; without batch, if not known."""
    target, shape = target_of(network, norm.node), shape_of(norm.node)
    numbers = norm.bias if norm.weight is None else norm.weight
    assert numbers is not None, "a norm with neither is not listed"
    channels = torch.arange(1, numbers.numel() + 1, dtype=torch.float64).view(numbers.shape)
    if (type(target) if isinstance(target, nn.Module) else target) in _OF_CHANNELS:
        if shape is None:
            return None
        channels = channels.view(-1, *[1] * (len(shape) - 2))
    return channels if shape is None else channels.expand(shape)


def _remove_affine(network: fx.GraphModule, node: fx.Node) -> None:
    target: Any = target_of(network, node)
    if node.op == "call_module":
        target.weight = target.bias = None
        setattr(target, "affine" if hasattr(target, "affine") else "elementwise_affine", False)
        return
    given = {name: place for name, place in _POSITIONS.items() if _argument(node, name) is not None}
    args = enumerate(node.args)
    node.args = tuple(None if i in given.values() else value for i, value in args)
    node.kwargs = {name: None if name in given else value for name, value in node.kwargs.items()}
