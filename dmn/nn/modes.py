"""Eval mode for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from dmn.nn.pair import Pair


@contextmanager
def eval_mode(model: nn.Module | Pair) -> Iterator[None]:
    """Put a model in eval mode, and restore the mode of each of its modules afterwards.

    Args:
        model: A network or a pair.

    Examples:
        >>> net = nn.Dropout()
        >>> with eval_mode(net):
        ...     print(net.training)
        False
        >>> net.training
        True
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
