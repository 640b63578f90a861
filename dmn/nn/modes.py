"""Eval mode, and frozen parameters, for the length of a block."""

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


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter of a model require a gradient, and restore this afterwards.

    torch rounds linear layers of tokens otherwise if their weights require a gradient, also under
    `torch.no_grad`. Networks can only be compared bit for bit if both are frozen.

    Args:
        model: Any network.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
