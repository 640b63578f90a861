"""Record what a network does to a tensor, call by call."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import Tensor, fx, nn

from dmn.graph.arguments import find_image_argument
from dmn.nn.logits import pick_logits

_QUERIES = {"size", "dim", "numel", "ndimension", "stride"}
_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda"}
IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_LOCK = RLock()  # only one thread at a time may patch isinstance


def is_query(node: fx.Node) -> bool:
    """Return whether a node asks for the shape or kind of a tensor, not for its values."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    return node.op == "call_method" and node.target in _QUERIES


def is_number(node: fx.Node, numbers: set[fx.Node]) -> bool:
    """Return whether a node holds no tensor: it is a query, or computed from numbers only."""
    computed = getattr(node.target, "__module__", "") == "_operator"
    return is_query(node) or (computed and numbers.issuperset(node.all_input_nodes))


def _in_place(function: Any) -> Any:
    return lambda x, y: x.tracer.create_proxy("call_function", function, (x, y), {})


class _Proxy(fx.Proxy):
    """A value in a trace whose `+=` is in place; that of torch takes it for `+`."""

    _is_param = False  # what isinstance(..., nn.Parameter) asks a tensor for

    __iadd__, __isub__, __imul__, __itruediv__ = map(_in_place, IN_PLACE_OPERATORS)


@contextmanager
def tensors_by_type() -> Iterator[None]:
    """Make `isinstance(value, Tensor)` true for the tensors in a trace.

    Otherwise a branch on it is silently left out. C code does not call this function, so it does
    not take them for real tensors.
    """
    with _LOCK:
        original = builtins.isinstance

        def patched(value: Any, kinds: Any) -> bool:
            return original(value, kinds) or (type(value) is _Proxy and issubclass(Tensor, kinds))

        vars(builtins)["isinstance"] = patched
        try:
            yield
        finally:
            vars(builtins)["isinstance"] = original


class Tracer(fx.Tracer):
    """Keep modules with a rule whole, and record the node that each module returned."""

    def __init__(self, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_leaf = is_leaf
        self._numbers: set[fx.Node] = set()
        self.returned: list[tuple[str, fx.Node]] = []
        self.path = ""

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Trace the images only, up to the logits; other arguments keep their defaults."""
        images = self.create_proxy("placeholder", find_image_argument(self.root), (), {})
        name = type(self.root).__name__
        return lambda root, x: pick_logits(root_fn(root, x), name), [self.root, images]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is kept whole."""
        return self._is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a value that says whether it is a tensor."""
        if is_number(node, self._numbers):
            self._numbers.add(node)
            return fx.Proxy(node, self)
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """Convert an argument to the form in which a graph stores it."""
        return a.node if type(a) is _Proxy else super().create_arg(a)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a module, and record the node that it returned."""
        outer, self.path = self.path, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.returned.append((self.path, result.node))
        self.path = outer  # not reached after an error, so that path says where
        return result
