"""Let attention return one tensor, its output, without the weights."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn

from dmn.graph.nodes import Unsupported, describe, target_of
from dmn.nn.attention import AttentionOutput


def is_attention(module: nn.Module) -> bool:
    """Return whether a module is `torch.nn.MultiheadAttention`, or differs by name only."""
    same = type(module).forward is nn.MultiheadAttention.forward
    return isinstance(module, nn.MultiheadAttention) and same


def return_output_alone(network: fx.GraphModule) -> list[Unsupported]:
    """Make each `MultiheadAttention` of a traced network an `AttentionOutput`.

    Args:
        network: A traced network, changed in place.

    Returns:
        The calls whose weights are read.
    """
    refused = []
    modules = set()
    for node in list(network.graph.nodes):
        module = target_of(network, node) if node.op == "call_module" else None
        if module is None or not (module in modules or is_attention(module)):
            continue
        modules.add(module)
        module.__class__ = AttentionOutput
        for user in list(node.users):
            if user.target is operator.getitem and user.args[1] == 0:
                user.replace_all_uses_with(node)
            elif user.users or user.op == "output":
                needs = "its weights are read: call it with need_weights=False, and use the output"
                refused.append(Unsupported(describe(network, node), needs))
    return refused


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let attention compute by its operations, as with gradients, and not by one kernel for all."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
