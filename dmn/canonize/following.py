"""Scales and shifts put into all the linear operations that take their results."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dmn.canonize.affine import shape_of
from dmn.canonize.modules import Layers, call_module
from dmn.canonize.moves import Moves, Use
from dmn.canonize.weights import (
    OUTPUT_AXES,
    fold_inputs,
    fold_projections,
    is_read,
    is_transposed,
    pads_zeros,
)
from dmn.graph.trace import describe, target_of

_ARGUMENTS = ("input", "weight", "bias")  # of F.linear
_SLOTS = {"q": "query", "k": "key", "v": "value"}  # of attention, in order


def fold_into_uses(
    moves: Moves,
    layers: Layers,
    node: fx.Node,
    channels: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
) -> str:
    """Scale and shift what all users of a node take, within their weights; all of them or none.

    It follows the node's channels through operations that move or average numbers, to linear
    layers, convolutions, and the projections of attention.

    Args:
        moves: Of the network.
        layers: Its nodes by name.
        node: Its users get the scale and the shift. It is not changed.
        channels: The channel of each number that it returns, counted from 1; without an example,
            of a tensor without batch.
        scale: One number per channel (C,), in float64; None for 1.
        shift: Likewise; None for 0. Whether it is None decides, not whether it is 0: a network
            with other weights is then written in the same way.

    Returns:
        The reason why nothing was folded; empty if it was.
    """
    uses = moves.uses(node, channels)
    reasons = (_reason(moves, use, shift is not None) for use in uses)
    if reason := next(filter(None, reasons), ""):
        return reason
    count = int(channels.max())
    scale = torch.ones(count, dtype=torch.float64) if scale is None else scale
    shift = torch.zeros(count, dtype=torch.float64) if shift is None else shift
    for use in uses:
        module = _linear(moves, layers, use.node)
        along = use.along(_axis(module))
        if isinstance(module, nn.MultiheadAttention):
            fold_projections(module, _slots(use), scale[along], shift[along])
        else:
            fold_inputs(module, scale[along], shift[along])
    return ""


def _reason(moves: Moves, use: Use, shifted: bool) -> str:
    """Return why a scale, and a shift if there is one, cannot be folded into a use."""
    if use.node.op == "output":
        return "its output is that of the network"
    target: Any = target_of(moves.network, use.node)
    goes = f"its output goes to {describe(moves.network, use.node)}"
    if moves.is_move(use.node) and shape_of(use.source) is None:
        return f"{goes}; pass `example`, to follow its channels there"
    if moves.is_move(use.node):
        return f"{goes}, which mixes channels or, for some sizes of images, adds other numbers"
    if not _is_linear(moves, use, target):
        return f"{goes}, which is not linear"
    if isinstance(target, nn.Module) and is_read(moves.network, use.node):
        return f"{goes}, whose weights are used elsewhere, too"
    if _axis(target) == 1:
        if use.channels.dim() != target.weight.dim():
            return f"{goes}, and it is not known where its channels are; pass `example`"
        if shifted and pads_zeros(target):
            return f"{goes}, which pads by zeros, where the bias would be missing"
    if use.along(_axis(target)) is None:
        return f"{goes}, whose weights are for other axes"
    return ""


def _is_linear(moves: Moves, use: Use, target: Any) -> bool:
    """Return whether a node is linear in this input only, and has weights of its own."""
    others = [node for node in use.node.all_input_nodes if node is not use.source]
    if isinstance(target, nn.MultiheadAttention):
        options = [value for key, value in use.node.kwargs.items() if key not in _SLOTS.values()]
        return bool(_slots(use)) and use.source not in (*use.node.args[3:], *options)
    if target is F.linear:
        return all(node in moves.constants for node in others)
    return type(target) in OUTPUT_AXES and not is_transposed(target) and not others


def _axis(target: Any) -> int:
    """Return the axis of channels of what an operation takes."""
    is_convolution = type(target) in OUTPUT_AXES and not isinstance(target, nn.Linear)
    return 1 if is_convolution else -1


def _slots(use: Use) -> list[str]:
    """Return which of "q", "k" and "v" of attention an input is."""
    arguments = dict(zip(_SLOTS.values(), use.node.args, strict=False)) | use.node.kwargs
    return [name for name, slot in _SLOTS.items() if arguments.get(slot) is use.source]


def _linear(moves: Moves, layers: Layers, node: fx.Node) -> Any:
    """Return the module that a node calls; a function becomes one."""
    target: Any = target_of(moves.network, node)
    if target is not F.linear:
        return target
    arguments: dict[str, Any] = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    weight: Tensor = moves.constants[arguments["weight"]]
    bias: Tensor | None = moves.constants.get(arguments.get("bias"))  # type: ignore[arg-type]
    module = nn.Linear(weight.shape[1], len(weight), bias is not None, device="meta")
    module.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone())
    call_module(moves.network, layers, node, module, (arguments["input"],))
    return module
