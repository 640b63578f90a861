"""The layers of a network by depth: what thaws together, and what learns at one rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

WEIGHTED = (nn.Linear, _ConvNd)


def layer_names(net: nn.Module) -> list[list[str]]:
    """Divide a network into layers, from the first to the head, in the order of registration.

    A layer is a convolution or linear module and what follows until the next, batch norm say. g and
    h of a pair have theirs side by side, counted from their heads, above those of a front.

    Args:
        net: Any module.

    Returns:
        For each layer the names of its modules that have parameters or buffers of their own.
    """
    parts = {name: part for name, part in net.named_children() if name in ("g", "h")}
    sides = [_in_a_row(part, name) for name, part in (parts or {"": net}).items()]
    from_heads = zip_longest(*map(reversed, sides), fillvalue=())
    above = [list(chain.from_iterable(names)) for names in from_heads][::-1]
    return [*(_in_a_row(net.get_submodule("front"), "front") if parts else []), *above]


def layerwise(
    make: Callable[[Iterable[Any]], Optimizer], net: nn.Module, decay: float
) -> Optimizer:
    """Make an optimizer whose rate is the full one at the head, and less in each layer below.

    Args:
        make: Called with one group of parameters a layer.
        net: Any module.
        decay: The rate of each layer as a share of that of the layer above it.

    Source: Howard & Ruder, Universal Language Model Fine-tuning, ACL 2018 (there 1 / 2.6).
    """
    modules = dict(net.named_modules())
    optimizer = make(
        {"params": [p for name in names for p in modules[name].parameters(recurse=False)]}
        for names in layer_names(net)
    )
    for below, group in enumerate(reversed(optimizer.param_groups)):
        group["lr"] *= decay**below
    return optimizer


def _in_a_row(part: nn.Module, prefix: str) -> list[list[str]]:
    layers: list[list[str]] = [[]]
    for name, module in part.named_modules(prefix=prefix):
        if isinstance(module, WEIGHTED):
            layers.append([])
        if any(True for _ in chain(module.parameters(False), module.buffers(False))):
            layers[-1].append(name)
    return [names for names in layers if names]
