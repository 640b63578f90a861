"""Record what a network does to a tensor, call by call."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import Tensor, fx, nn

_QUERIES = {"size", "dim", "numel", "ndimension", "stride"}
_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda"}
IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_LOCK = RLock()  # what the trace of one thread replaces is not put back by another's


def is_query(node: fx.Node) -> bool:
    """Return whether a node asks for the shape or kind of a tensor, not for its values."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    return node.op == "call_method" and node.target in _QUERIES


def is_number(node: fx.Node, numbers: set[fx.Node]) -> bool:
    """Return whether a node holds no tensor: it is a query, or computed of numbers alone."""
    computed = getattr(node.target, "__module__", "") == "_operator"
    return is_query(node) or (computed and numbers.issuperset(node.all_input_nodes))


def _in_place(function: Any) -> Any:
    return lambda x, y: x.tracer.create_proxy("call_function", function, (x, y), {})


class _Proxy(fx.Proxy):
    """A value in a trace that overwrites by `+=`; torch's own takes that for `+`."""

    _is_param = False  # what isinstance(..., nn.Parameter) asks a tensor for

    __iadd__, __isub__, __imul__, __itruediv__ = map(_in_place, IN_PLACE_OPERATORS)


@contextmanager
def tensors_by_type() -> Iterator[None]:
    """Let `isinstance(value, Tensor)` be true of the tensors in a trace.

    Otherwise a branch on it is silently left out. C code, which would take them for real tensors,
    does not ask this function.
    """
    with _LOCK:
        plain = builtins.isinstance

        def patched(value: Any, kinds: Any) -> bool:
            return plain(value, kinds) or (type(value) is _Proxy and issubclass(Tensor, kinds))

        vars(builtins)["isinstance"] = patched
        try:
            yield
        finally:
            vars(builtins)["isinstance"] = plain


class Tracer(fx.Tracer):
    """Keep whole what has a rule, and remember what each module returned."""

    def __init__(self, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_leaf = is_leaf
        self._numbers: set[fx.Node] = set()
        self.returned: list[tuple[str, fx.Node]] = []
        self.path = ""

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
        """Return what a graph holds in place of an argument."""
        return a.node if type(a) is _Proxy else super().create_arg(a)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a module, and remember the node that it returned."""
        outer, self.path = self.path, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.returned.append((self.path, result.node))
        self.path = outer  # after an error it says where
        return result
