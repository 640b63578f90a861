"""Refuse what a graph would leave out: hooks, and a forward that is set on the instance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dmn.errors import UnsupportedError
from dmn.graph.wrappers import is_wrapper

# Classes of hooks: what they are called in a message, and what removes them.
_KINDS: tuple[tuple[type, str, str], ...] = (
    (WeightNorm, "weight_norm", "torch.nn.utils.remove_weight_norm(module, {name!r})"),
    (SpectralNorm, "spectral_norm", "torch.nn.utils.remove_spectral_norm(module, {name!r})"),
    (BasePruningMethod, "pruning", "torch.nn.utils.prune.remove(module, {name!r})"),
)
_TENSOR_NAMES = ("name", "_tensor_name")  # attributes of hooks: the weight that they compute


def refuse_hooks(model: nn.Module) -> None:
    """Refuse hooks, and a forward of the instance's own.

    Hooks of the backward pass are allowed: they are no part of the function.

    Raises:
        UnsupportedError: with one line for each kind: where, and what removes it.
    """
    paths: dict[tuple[str, str], list[str]] = {}
    for path, module in model.named_modules():
        for fault in dict.fromkeys(_faults(module)):
            paths.setdefault(fault, []).append(path or type(module).__name__)
    lines = [
        f"{what} on {', '.join(where)}: not in the graph; {remedy}"
        for (what, remedy), where in paths.items()
    ]
    if lines:
        raise UnsupportedError(*lines)


def remove_backward_hooks(model: nn.Module) -> None:
    """Remove the hooks of the backward pass of all modules."""
    for module in model.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()


def _faults(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield what a graph would leave out of a module, and what removes it."""
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        yield "parameters of a lazy module", "run the model on a batch first"
        return
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        yield _kind_of(hook)
    if hasattr(module, "_hf_hook"):
        yield (
            "a forward of the instance's own, of accelerate",
            "call accelerate.hooks.remove_hook_from_module(module)",
        )
    elif "forward" in vars(module) and not is_wrapper(module):
        yield (
            "a forward of the instance's own",
            "delete it (del module.forward), or define it in the class",
        )


def _kind_of(hook: Any) -> tuple[str, str]:
    for kind, what, remedy in _KINDS:
        if isinstance(hook, kind):
            name = next(getattr(hook, name) for name in _TENSOR_NAMES if hasattr(hook, name))
            return f"forward hooks of {what}", f"call {remedy.format(name=name)} first"
    name = getattr(hook, "__qualname__", type(hook).__name__)
    return (
        f"forward hooks ({name})",
        "remove them first, by handle.remove() of what register_forward_hook or "
        "register_forward_pre_hook returned",
    )
