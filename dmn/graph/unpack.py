"""Replace chunk, split and unbind by one operation per piece."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

SPLITTING = {torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind"}
# The functions name these arguments otherwise than the methods do.
_KEYS = {"input": "x", "tensor": "x", "split_size_or_sections": "split_size"}


def unpack_splits(graph: fx.Graph) -> None:
    """Give each piece of a chunk, split or unbind its own node: every node is then one tensor."""
    for node in list(graph.nodes):
        if node.op in ("call_function", "call_method") and node.target in SPLITTING:
            name = str(getattr(node.target, "__name__", node.target))
            kwargs = {_KEYS.get(key, key): value for key, value in node.kwargs.items()}
            for user in list(node.users):
                if user.target is operator.getitem and isinstance(user.args[1], int):
                    options = {"divide": name, "index": user.args[1]}
                    user.target, user.args, user.kwargs = piece, node.args, {**kwargs, **options}


def piece(x: Any, *options: Any, divide: str, index: int, **kwargs: Any) -> Any:
    """Return one piece of a tensor.

    Args:
        x: The tensor.
        *options: Positional arguments of the method.
        divide: Name of the method: `chunk`, `split` or `unbind`.
        index: Index of the piece.
        **kwargs: Keyword arguments of the method.
    """
    return getattr(x, divide)(*options, **kwargs)[index]
