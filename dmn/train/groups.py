"""The layers of a network by depth, which thaw together and share a learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

WEIGHTED = (nn.Linear, _ConvNd)


def layer_names(net: nn.Module) -> list[list[str]]:
    """Return the layers of a network, from the first to the head, in the order of registration.

    A layer is a convolution or linear module with the modules up to the next one, such as batch
    norm. The layers of g and h of a pair are merged, counted from their heads, above those of a
    front.

    Args:
        net: Any module.

    Returns:
        For each layer, the names of its modules that have parameters or buffers of their own.
    """
    parts = {name: part for name, part in net.named_children() if name in ("g", "h")}
    layers_of_parts = [
        _sequential_layers(part, name) for name, part in (parts or {"": net}).items()
    ]
    from_heads = zip_longest(*map(reversed, layers_of_parts), fillvalue=())
    layers = [list(chain.from_iterable(names)) for names in from_heads][::-1]
    return [*(_sequential_layers(net.get_submodule("front"), "front") if parts else []), *layers]


def layerwise(
    make_optimizer: Callable[[Iterable[Any]], Optimizer], net: nn.Module, decay: float
) -> Optimizer:
    """Return an optimizer with the full learning rate at the head, and less in each layer below.

    Args:
        make_optimizer: Called with one group of parameters per layer.
        net: Any module.
        decay: Learning rate of each layer as a share of that of the layer above.

    Source: Howard & Ruder, Universal Language Model Fine-tuning, ACL 2018 (there 1 / 2.6).
    """
    modules = dict(net.named_modules())
    optimizer = make_optimizer(
        {"params": [p for name in names for p in modules[name].parameters(recurse=False)]}
        for names in layer_names(net)
    )
    for below, group in enumerate(reversed(optimizer.param_groups)):
        group["lr"] *= decay**below
    return optimizer


def _sequential_layers(part: nn.Module, prefix: str) -> list[list[str]]:
    layers: list[list[str]] = [[]]
    for name, module in part.named_modules(prefix=prefix):
        if isinstance(module, WEIGHTED):
            layers.append([])
        if any(True for _ in chain(module.parameters(False), module.buffers(False))):
            layers[-1].append(name)
    return [names for names in layers if names]
