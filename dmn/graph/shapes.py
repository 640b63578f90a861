"""Let the shapes of an example answer what a forward asks for, and guard each answer."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from dmn.errors import UnsupportedError

length = builtins.len  # `len` itself is another function during a trace
_MODULE_METHODS = {name: getattr(nn.Module, name) for name in ("__call__", "__getattr__")}


@fx.node.has_side_effect
def require(value: Any, expected: Any, where: str) -> None:
    """Check in a graph that images lead to the answer that the example gave.

    Args:
        value: Computed from the shapes of the images; not from their values.
        expected: What it was for the example. A bool stands for the branch that was taken.
        where: Where the forward asked.

    Raises:
        UnsupportedError: if the forward would go another way, as images have another shape.
    """
    if (bool(value) if type(expected) is bool else value) != expected:
        raise UnsupportedError(
            f"the forward at {where} goes another way for images of this shape or type than for "
            "the example that it was traced with; trace it again with such images"
        )


class UnknownShapeError(Exception):
    """A forward asks for the shape of images, and there is no example to tell."""


class ExampleValues:
    """What the nodes of a graph are for an example, computed when first asked for.

    Args:
        model: The network that is traced.
        example: Images (B, C, H, W); None if there are none.
    """

    def __init__(self, model: nn.Module, example: Tensor | None) -> None:
        self._model, self._example = model, example
        self._values: dict[fx.Node, Any] = {}
        self._unknown: set[fx.Node] = set()
        self._last: fx.Node | None = None  # that was evaluated

    def of(self, node: fx.Node) -> Any:
        """Return the value of a node.

        Raises:
            UnknownShapeError: if it depends on the images, and there is no example.
        """
        with _untraced(), torch.inference_mode(False), torch.no_grad():
            # in the order in which they run, as some overwrite what others read
            for next_node in self._not_evaluated(node.graph):
                self._evaluate(next_node)
                self._last = next_node
        if node in self._unknown:
            raise UnknownShapeError
        return self._values[node]

    def forget(self, node: fx.Node) -> None:
        """Forget a node, before it is erased."""
        if self._last is node:
            self._last = node.prev

    def _not_evaluated(self, graph: fx.Graph) -> Iterator[fx.Node]:
        node = next(iter(graph.nodes)) if self._last is None else self._last.next
        while node.op != "root":  # the end of the list
            yield node
            node = node.next

    def _evaluate(self, node: fx.Node) -> None:
        no_example = node.op == "placeholder" and self._example is None
        if no_example or not self._unknown.isdisjoint(node.all_input_nodes):
            self._unknown.add(node)
        else:
            self._values[node] = self._run(node)

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return torch.as_tensor(self._example).detach().clone()  # it may be overwritten
        path = str(node.target)
        if node.op == "get_attr":
            return operator.attrgetter(path)(self._model)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        if node.op == "call_method":
            return getattr(args[0], path)(*args[1:], **kwargs)
        target: Any = self._model.get_submodule(path) if node.op == "call_module" else node.target
        return target(*args, **kwargs)


@contextmanager
def _untraced() -> Iterator[None]:
    """Let modules run as they are, within a trace."""
    traced = {name: getattr(nn.Module, name) for name in _MODULE_METHODS}
    try:
        _set_methods(_MODULE_METHODS)
        yield
    finally:
        _set_methods(traced)


def _set_methods(methods: dict[str, Callable[..., Any]]) -> None:
    for name, method in methods.items():
        setattr(nn.Module, name, method)
