"""What a node of a graph calls, where it stands, and the list of what has no rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import fx, nn

from dmn.errors import UnsupportedError
from dmn.nn.attention import AttentionOutput


class Unsupported(NamedTuple):
    """An operation of a network that cannot be rewritten, and why; `UnsupportedError` lists them.

    Attributes:
        path: The module path of the operation, and its name.
        needs: The reason, and what would help.

    Examples:
        >>> node = Unsupported("block.softmax (softmax)", "leave it out, and explain the logits")
        >>> print(node)
        block.softmax (softmax): leave it out, and explain the logits
        >>> node.place, node.kind
        ('block.softmax', 'softmax')
    """

    path: str
    needs: str

    @property
    def place(self) -> str:
        """The module path alone."""
        return place_and_kind(self.path)[0]

    @property
    def kind(self) -> str:
        """The name alone."""
        return place_and_kind(self.path)[1]

    def __str__(self) -> str:
        return f"{self.path}: {self.needs}"


def unsupported(nodes: Iterable[Unsupported], job: str) -> UnsupportedError:
    """Return the error that lists the operations of a network that cannot be rewritten.

    Args:
        nodes: The operations that were found.
        job: What was to be done with which network, such as "split ResNet".
    """
    nodes = tuple(nodes)
    lines = (f"  {node}" for node in nodes)
    error = UnsupportedError(f"cannot {job}: {len(nodes)} of its operations have no rule", *lines)
    error.nodes = nodes
    return error


def target_of(network: fx.GraphModule, node: fx.Node) -> Any:
    """Return what a node calls: a module, a function, or the name of a method."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def is_call(network: fx.GraphModule, node: fx.Node, targets: Iterable[Any]) -> bool:
    """Return whether a node calls one of some functions, methods, or classes of modules."""
    if not node.op.startswith("call"):
        return False
    target = target_of(network, node)
    if isinstance(target, nn.Module):
        return isinstance(target, tuple(kind for kind in targets if isinstance(kind, type)))
    return target in targets


def describe(network: fx.GraphModule, node: fx.Node, kind: str = "") -> str:
    """Describe a node for messages: its module path, and what it calls, or another name."""
    return f"{path_of(node) or type(network).__name__} ({kind or operation_name(network, node)})"


def place_and_kind(description: str) -> tuple[str, str]:
    """Return the module path and the name in a description."""
    place, _, kind = description.rpartition(" (")
    return place, kind.removesuffix(")")


def operation_name(network: fx.GraphModule, node: fx.Node) -> str:
    """Return the name of what a node calls: of a class, a function or a method."""
    target = target_of(network, node)
    kind = nn.MultiheadAttention if type(target) is AttentionOutput else type(target)
    return kind.__name__ if isinstance(target, nn.Module) else name_of(target)


def owner_of(network: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """Return the path and the class of the module that an operation is part of.

    A module that is called is its own owner. The path of the network itself is empty.
    """
    if node.op == "call_module":
        return str(node.target), operation_name(network, node)
    path, kind = [("", type(network)), *node.meta.get("nn_module_stack", {}).values()][-1]
    name = kind.__name__ if isinstance(kind, type) else kind.rpartition(".")[2]  # of an export
    return (path, name) if path else ("", type(network).__name__)


def path_of(node: fx.Node) -> str:
    """Return the module path of a node; for an operation, that of its module and its name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    if node.op == "call_module":
        return str(node.target)
    return ".".join(part for part in (path, name_of(node.target)) if part)


def name_of(target: Any) -> str:
    """Return the name of a function or method."""
    return str(getattr(target, "__name__", target))
