"""Take a network out of what only wraps it, and refuse what holds no Python code to trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload

from dmn.errors import UnsupportedError


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`.

    Args:
        model: Any network; it is returned as it is if nothing wraps it.
    """
    while attribute := _attribute_of_wrapped(model):
        model = model.get_submodule(attribute)
    return model


def unwrap_submodules(model: nn.Module) -> None:
    """Replace each wrapper inside a network by the network inside it, in place."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = unwrap(child)


def is_wrapper(module: Any) -> bool:
    """Return whether a module only wraps another."""
    return bool(_attribute_of_wrapped(module))


def is_compiled(model: nn.Module) -> bool:
    """Return whether `torch.compile` runs a network or a part of it."""
    return any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def refuse_without_code(model: Any) -> None:
    """Refuse what has no forward in Python: TorchScript, what `torch.export` returns, no module.

    Raises:
        UnsupportedError: in one line, with the module path and what to give instead.
    """
    if type(model).__module__.startswith("torch.export."):  # importing it takes a second
        raise _no_code("the model", "a program of torch.export", "exported")
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    for path, module in model.named_modules():
        location = repr(path) if path else f"the model ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise _no_code(location, "a TorchScript module", "scripted or traced")
        if any(isinstance(node.target, OpOverload) for node in _nodes(module)):
            raise _no_code(location, "a graph of aten operations, of torch.export", "exported")


def _attribute_of_wrapped(module: Any) -> str:
    """Return the name of the attribute that holds the wrapped network; empty if there is none."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    return "_orig_mod" if "_orig_mod" in getattr(module, "_modules", ()) else ""


def _nodes(module: nn.Module) -> Iterator[fx.Node]:
    graph = getattr(module, "graph", None)
    return iter(graph.nodes if isinstance(graph, fx.Graph) else ())


def _no_code(location: str, kind: str, change: str) -> UnsupportedError:
    return UnsupportedError(
        f"{location} is {kind}, which has lost its layers and its Python code; "
        f"give the nn.Module that was {change}"
    )
