"""Record what a network does to a tensor, call by call."""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _wrapped_fns_to_patch

from dmn.graph.arguments import find_image_argument
from dmn.graph.attention import is_attention
from dmn.graph.shapes import ExampleValues, length, require
from dmn.graph.unpack import SPLITTING
from dmn.nn.logits import pick_logits

_QUERIES = {
    *("size", "dim", "numel", "ndimension", "stride", "is_contiguous", "is_floating_point"),
    *("is_complex", "element_size", "get_device"),
}
_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda", "itemsize"}
_ON_NUMBERS = {"_operator", "math", "builtins"}  # functions of these modules return numbers
IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
# Modules of torch that consist of others with rules, and libraries that mark functions of theirs by
# `torch.fx.wrap` for tracers of their own: their forwards are followed.
_CONTAINERS = (
    *(nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer),
    *(nn.TransformerDecoder, nn.TransformerDecoderLayer, nn.ModuleList, nn.ModuleDict),
)
_LIBRARIES = ("torchvision.models.", "timm.")
_JOINING = {torch.cat, torch.concat, torch.concatenate, torch.stack}
_LOCK = RLock()  # only one thread at a time may patch builtins


def is_query(node: fx.Node) -> bool:
    """Return whether a node asks for the shape or kind of a tensor, not for its values."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    return node.op == "call_method" and node.target in _QUERIES


def is_number(node: fx.Node, numbers: set[fx.Node]) -> bool:
    """Return whether a node holds no tensor: it is a query, or computed from numbers only."""
    if is_query(node):
        return True
    computed = getattr(node.target, "__module__", "") in _ON_NUMBERS or node.op == "call_method"
    return computed and numbers.issuperset(node.all_input_nodes)


def _in_place(function: Any) -> Any:
    return lambda x, y: x.tracer.create_proxy("call_function", function, (x, y), {})


class _Proxy(fx.Proxy):
    """A value in a trace whose `+=` is in place; that of torch takes it for `+`."""

    tracer: Tracer
    _is_param = _is_buffer = False  # what isinstance(..., nn.Parameter) asks a tensor for
    requires_grad = is_nested = False  # as in a prediction

    __iadd__, __isub__, __imul__, __itruediv__ = map(_in_place, IN_PLACE_OPERATORS)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __getattr__(self, k: str) -> Any:
        if k in _ATTRIBUTES:
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        return super().__getattr__(k)

    def __len__(self) -> int:
        raise TypeError("len of a traced value")  # list and tuple then count by themselves


class TracedNumber(fx.Proxy):
    """A shape, a size or a type in a trace, or what is computed from them."""

    tracer: Tracer

    def __int__(self) -> int:
        return int(self.tracer.answer(self))

    def __float__(self) -> float:
        return float(self.tracer.answer(self))

    def __len__(self) -> int:
        raise TypeError("len of a traced value")

    def prod(self, **_: Any) -> Any:
        """Return the product of the sizes of a shape: what `numpy.prod` asks for."""
        product: Any = 1
        for size in self:
            product = product * size
        return product


class _ExampleNumber(TracedNumber):
    """A number in a trace with an example; torch asks others for an index in vain."""

    def __index__(self) -> int:
        return operator.index(self.tracer.answer(self, in_call=True))

    def __getattr__(self, k: str) -> Any:
        value = super().__getattr__(k)
        is_device = self.node.target is getattr and self.node.args[1] == "device"
        return self.tracer.answer(value) if is_device and k == "type" else value


@contextmanager
def tensors_by_type() -> Iterator[None]:
    """Make `isinstance(value, Tensor)` true for the tensors in a trace, and `len` traceable.

    Otherwise a branch on it is silently left out. C code does not call this function, so it does
    not take them for real tensors.
    """
    with _LOCK:
        original = builtins.isinstance

        def patched(value: Any, kinds: Any) -> bool:
            return original(value, kinds) or (type(value) is _Proxy and issubclass(Tensor, kinds))

        def traced_length(value: Any) -> Any:
            in_trace = type(value) in (_Proxy, TracedNumber, _ExampleNumber)
            return value.tracer.length(value) if in_trace else length(value)

        vars(builtins).update(isinstance=patched, len=traced_length)
        try:
            yield
        finally:
            vars(builtins).update(isinstance=original, len=length)


@contextmanager
def _wraps_of_libraries_undone() -> Iterator[None]:
    """Let a trace follow functions that libraries keep whole by `torch.fx.wrap`."""
    kept = {
        key: namespace
        for key, namespace in _wrapped_fns_to_patch.items()
        if namespace.get("__name__", "").startswith(_LIBRARIES)
    }
    for key in kept:
        del _wrapped_fns_to_patch[key]
    try:
        yield
    finally:
        _wrapped_fns_to_patch.update(kept)


class Tracer(fx.Tracer):
    """Keep modules with a rule whole, and record the node that each module returned.

    Args:
        is_leaf: Returns whether to keep a module whole.
        example: Images whose shapes decide where the forward branches on shapes. Each decision is
            checked again by the graph.
    """

    def __init__(self, is_leaf: Callable[[nn.Module], bool], example: Tensor | None = None) -> None:
        super().__init__()
        self._is_leaf, self._example = is_leaf, example
        self._numbers: set[fx.Node] = set()
        self._asked: tuple[FrameType, int, fx.Node] | None = None
        self._values: ExampleValues
        self.returned: list[tuple[str, fx.Node]] = []
        self.path = ""

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Trace the images only, up to the logits; other arguments keep their defaults."""
        images = self.create_proxy("placeholder", find_image_argument(self.root), (), {})
        name = type(self.root).__name__
        return lambda root, x: pick_logits(root_fn(root, x), name), [self.root, images]

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph of a network."""
        self._values = ExampleValues(root, self._example)
        with _wraps_of_libraries_undone():
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is kept whole."""
        is_torch = super().is_leaf_module(m, module_qualified_name) or is_attention(m)
        return self._is_leaf(m) or (is_torch and not isinstance(m, _CONTAINERS))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a value that says whether it is a tensor."""
        if not is_number(node, self._numbers):
            return _Proxy(node, self)
        self._numbers.add(node)
        return (TracedNumber if self._example is None else _ExampleNumber)(node, self)

    def create_arg(self, a: Any) -> Any:
        """Convert an argument to the form in which a graph stores it."""
        return a.node if type(a) is _Proxy else super().create_arg(a)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        """Record an operation; forget a question whose answer it does not need."""
        if kind == "call_method" and _overwrites_a_constant(target, args[0]):
            raise fx.proxy.TraceError("writes what depends on the images into a constant")
        if target in _JOINING and args and _is_divided(args[0]):
            args = (list(args[0]), *args[1:])
        asked, self._asked = self._asked, None
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        if asked and _is_running(*asked[:2]) and asked[2].args[0] in proxy.node.all_input_nodes:
            self._values.forget(asked[2])
            self.graph.erase_node(asked[2])  # asked for in vain: torch records the number itself
        return proxy

    def answer(self, number: fx.Proxy, in_call: bool = False) -> Any:
        """Return what a number is for the example, and let the graph check it.

        Args:
            number: Computed from shapes.
            in_call: Whether the operation that asks may be recorded with the number itself.
        """
        value = self._values.of(number.node)
        guard = self._guard(number, value)
        frame = sys._getframe(2)
        self._asked = (frame, frame.f_lasti, guard) if in_call else None
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Return which branch to take: by the shapes of the example, never by values."""
        if obj.node not in self._numbers:
            raise fx.proxy.TraceError("control flow depends on the values of the images")
        taken = bool(self._values.of(obj.node))
        self._guard(obj, taken)
        return taken

    def length(self, value: Any) -> Any:
        """Return the length of a shape, of a tensor, or the number of pieces of one."""
        if value.node in self._numbers:
            return self.create_proxy("call_function", length, (value,), {})
        return self._pieces(value) if value.node.target in SPLITTING else value.shape[0]

    def iter(self, obj: Any) -> Iterator[fx.Proxy]:
        """Iterate over a shape, a tensor or its pieces; the example says how many."""
        count = self.length(obj)
        if not isinstance(count, int):
            count = int(self.answer(count))
        return iter([obj[index] for index in range(count)])

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a module, and record the node that it returned."""
        try:
            path = self.path_of_module(m)
        except NameError:  # the forward made it: no part of the network
            return forward(*args, **kwargs)
        outer, self.path = self.path, path
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.returned.append((self.path, result.node))
        self.path = outer  # not reached after an error, so that path says where
        return result

    def _guard(self, number: fx.Proxy, expected: Any) -> fx.Node:
        where = repr(self.path) if self.path else type(self.root).__name__
        guard = self.create_proxy("call_function", require, (number, expected, where), {})
        return guard.node  # type: ignore[no-any-return]

    def _pieces(self, value: fx.Proxy) -> int:
        """Return the number of pieces that a tensor is split into, by the length of its axis."""
        node = value.node
        axis = node.kwargs.get("dim", node.args[2] if length(node.args) > 2 else 0)
        whole: Any = fx.Proxy(node.all_input_nodes[0], self)
        self.answer(whole.size(axis))
        return length(self._values.of(node))


def _is_divided(value: Any) -> bool:
    """Return whether a value in a trace stands for the pieces of a tensor."""
    return type(value) is _Proxy and value.node.target in SPLITTING


def _overwrites_a_constant(method: str, x: Any) -> bool:
    """Return whether a method overwrites a tensor that is no value in the trace."""
    in_place = method == "__setitem__" or (method.endswith("_") and not method.endswith("__"))
    return in_place and not issubclass(type(x), fx.Proxy)


def _is_running(frame: FrameType, instruction: int) -> bool:
    """Return whether a caller is still at an instruction."""
    caller: FrameType | None = sys._getframe(2)
    while caller:
        if caller is frame:
            return caller.f_lasti == instruction
        caller = caller.f_back
    return False
