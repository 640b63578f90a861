"""Scales and shifts of the inputs and outputs of linear operations, put into their weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from dmn.graph.tracer import is_query
from dmn.nn.attention import projection

OUTPUT_AXES: dict[type[nn.Module], int] = {  # of the weight, see _scaled_weight
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), 1),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), 2),
}
_INPUT_AXIS = 2


def is_read(network: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether an operation reads parameters of the module that a node calls."""
    reads = network.graph.find_nodes(op="get_attr")
    return any(str(read.target).startswith(f"{node.target}.") for read in reads)


def tensor_users(node: fx.Node) -> list[fx.Node]:
    """Return the users of a node that take its values, rather than its shape or kind."""
    return [user for user in node.users if not is_query(user)]


def is_transposed(linear: nn.Module) -> bool:
    """Return whether an operation is a transposed convolution."""
    return OUTPUT_AXES[type(linear)] != 1


def pads_zeros(linear: Any) -> bool:
    """Return whether a convolution pads by zeros, at which a shift of its inputs is missing."""
    return linear.padding != "valid" and any(linear.padding) and linear.padding_mode == "zeros"


def fold_inputs(linear: Any, scale: Tensor, shift: Tensor) -> None:
    """Let a linear layer or a convolution scale and shift its inputs.

    Args:
        linear: Not transposed; it must not pad by zeros where there is a shift.
        scale: (C,), in float64.
        shift: (C,), in float64.
    """
    constant = _scaled_weight(linear, shift, _INPUT_AXIS).sum((2, 3)).flatten()
    _update_weights(linear, scale, _INPUT_AXIS, constant)


def fold_outputs(linear: Any, scale: Tensor, shift: Tensor) -> None:
    """Let a linear operation scale and shift its outputs.

    Args:
        linear: A linear layer or any convolution.
        scale: (C,), in float64.
        shift: (C,), in float64.
    """
    _update_weights(linear, scale, OUTPUT_AXES.get(type(linear), 1), shift, gain=scale)


def fold_projections(
    attention: nn.MultiheadAttention, names: Iterable[str], scale: Tensor, shift: Tensor
) -> None:
    """Let attention scale and shift its query, key or value.

    Args:
        attention: Its weights are replaced.
        names: Which of "q", "k" and "v".
        scale: (C,), in float64.
        shift: (C,), in float64.
    """
    width, like = attention.embed_dim, attention.out_proj.weight
    bias = torch.zeros(3 * width).to(shift)
    if attention.in_proj_bias is not None:
        bias = attention.in_proj_bias.detach().to(shift, copy=True)
    joint = attention.in_proj_weight is not None
    for name in names:
        start = "qkv".index(name) * width
        rows = slice(start, start + width)
        old, _ = projection(attention, name)
        bias[rows] += old.to(shift) @ shift
        key = "in_proj_weight" if joint else f"{name}_proj_weight"
        weight = getattr(attention, key).detach().clone()
        weight[rows if joint else slice(None)] = (old.to(shift) * scale).to(like)
        setattr(attention, key, nn.Parameter(weight))
    attention.in_proj_bias = nn.Parameter(bias.to(like))
    if attention.out_proj.bias is None:  # torch's fast path takes both biases or neither
        attention.out_proj.bias = nn.Parameter(torch.zeros(width).to(like))


def _scaled_weight(linear: Any, factor: Tensor, axis: int) -> Tensor:
    """Scale a weight, seen as (groups, outputs, inputs, taps) or transposed, along an axis."""
    weight, groups = linear.weight.to(factor), getattr(linear, "groups", 1)
    rows = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return torch.mul(rows, factor.view([groups, *(-1 if dim == axis else 1 for dim in (1, 2, 3))]))


def _update_weights(
    linear: Any, scale: Tensor, axis: int, shift: Tensor, gain: Tensor | float = 1.0
) -> None:
    """Scale the weight and shift the bias of an operation, rounded once."""
    old_weight = linear.weight
    bias = shift if linear.bias is None else linear.bias.to(shift) * gain + shift
    linear.weight = nn.Parameter(
        _scaled_weight(linear, scale, axis).view_as(old_weight).to(old_weight)
    )
    linear.bias = nn.Parameter(bias.to(old_weight))
