"""Which channel each number of a tensor belongs to, after operations that move or average numbers.

Channels are counted from 1. A tensor of these counts is given to the operations in place of the
activation, so that whatever they do to positions and axes, they do to the counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from dmn.canonize.affine import constant_values
from dmn.canonize.weights import tensor_users
from dmn.graph.trace import target_of
from dmn.rules.base import Move, Rule
from dmn.rules.table import find_rules

_NUMBER = "number"  # key in a node's meta
_TOLERANCE = 1e-6  # of variances; that of two channels in a window of n numbers is over 1 / 2n


class RecordedShapes(ShapeProp):
    """Runs a graph, and records the shape of each tensor and the value of each number."""

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        result = super().run_node(n)
        if isinstance(result, torch.Size) or not isinstance(result, (Tensor, tuple, list)):
            n.meta[_NUMBER] = result
        return result


class Use(NamedTuple):
    """An operation that takes channels, and does more than move or average numbers.

    Attributes:
        node: The operation.
        source: The input that holds them.
        channels: The channel of each number of this input.
    """

    node: fx.Node
    source: fx.Node
    channels: Tensor

    def along(self, axis: int) -> Tensor | None:
        """Return the channel at each place of an axis, from 0; None if it varies elsewhere."""
        rows = self.channels.movedim(axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        same = len(rows) > 0 and bool((rows == rows[:1]).all())
        return rows[0].long() - 1 if same else None


class Moves:
    """Follows channels through the operations of a graph that move or average numbers.

    Args:
        network: Traced; with the shapes of `RecordedShapes`, if there is an example.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        self.network = network
        self.constants = constant_values(network)
        self._rules = find_rules(network)

    def uses(self, node: fx.Node, channels: Tensor) -> list[Use]:
        """Return all operations that take the channels of a node, at the end of all moves."""
        found = []
        for user in tensor_users(node):
            moved = self.after(user, node, channels)
            found += [Use(user, node, channels)] if moved is None else self.uses(user, moved)
        return found

    def after(self, node: fx.Node, source: fx.Node, channels: Tensor) -> Tensor | None:
        """Return the channels after one operation.

        Args:
            node: The operation.
            source: Its input that holds the channels.
            channels: The channel of each number of this input.

        Returns:
            None if it does more than move or average numbers, mixes channels, has other tensors as
            inputs, or needs sizes that are not known without an example.
        """
        if not self.is_move(node) or _may_pad(node):
            return None
        moves = isinstance(self._rules[node], Move)
        try:
            moved = self._run(node, source, channels)
            squares = moved.square() if moves else self._run(node, source, channels.square())
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError):
            return None  # of a tensor without batch, where there is no example
        one_channel = (squares - moved.square()).abs() < _TOLERANCE
        whole = ((moved.round() - moved).abs() < _TOLERANCE) & (moved > 0.5)  # 0 is no channel
        exact = moved.dtype == channels.dtype and bool((one_channel & whole).all())
        return moved.round() if exact else None

    def is_move(self, node: fx.Node) -> bool:
        """Return whether an operation only moves, averages or adds numbers of a single tensor."""
        rule = self._rules.get(node)
        inputs = [i for i in node.all_input_nodes if i in self._rules or i.op == "placeholder"]
        return len(inputs) == 1 and (isinstance(rule, Move) or type(rule) is Rule)

    def _run(self, node: fx.Node, source: fx.Node, channels: Tensor) -> Tensor:
        def value(other: fx.Node) -> Any:
            if other is source:
                return channels
            return self.constants[other] if other in self.constants else other.meta[_NUMBER]

        target = target_of(self.network, node)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
        if node.op == "call_method":
            result = getattr(args[0], str(target))(*args[1:], **kwargs)
        else:
            result = target(*args, **kwargs)
        return result  # type: ignore[no-any-return]


def _may_pad(node: fx.Node) -> bool:
    """Return whether a node pads by sizes that depend on the image, and may be 0 for this one."""
    return node.target is F.pad and len(node.all_input_nodes) > 1
