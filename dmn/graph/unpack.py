"""What divides a tensor, as one operation for each piece."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

SPLITTING = {torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind"}
_KEYS = {"input": "x", "tensor": "x", "split_size_or_sections": "split_size"}  # of functions


def unpack_splits(graph: fx.Graph) -> None:
    """Let every node hold one tensor: each piece of a chunk or split is a node of its own."""
    for node in list(graph.nodes):
        if node.op in ("call_function", "call_method") and node.target in SPLITTING:
            name = str(getattr(node.target, "__name__", node.target))
            kwargs = {_KEYS.get(key, key): value for key, value in node.kwargs.items()}
            for user in list(node.users):
                if user.target is operator.getitem and isinstance(user.args[1], int):
                    given = {"divide": name, "index": user.args[1]}
                    user.target, user.args, user.kwargs = piece, node.args, {**kwargs, **given}


def piece(x: Any, *options: Any, divide: str, index: int, **kwargs: Any) -> Any:
    """Return one piece of a tensor.

    Args:
        x: The tensor.
        *options: What the method takes.
        divide: Name of the method: `chunk`, `split` or `unbind`.
        index: Which piece.
        **kwargs: What else the method takes.
    """
    return getattr(x, divide)(*options, **kwargs)[index]
