"""Capture a network by `torch.export`, where its code cannot be followed call by call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from dmn.errors import UnsupportedError
from dmn.graph.arguments import find_image_argument
from dmn.graph.aten import FIRST_ALONE, written
from dmn.graph.attention import without_fast_path
from dmn.graph.shapes import require
from dmn.nn.logits import pick_logits

_CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range"}
_CHECKS |= {"sym_constrain_range_for_size"}
_ROOT = "network"  # name of the network within what is exported


class Captured(NamedTuple):
    """A graph of calls of torch, and what the modules returned.

    Attributes:
        graph: The graph.
        returned: Module paths, and the node that each module returned.
    """

    graph: fx.Graph
    returned: list[tuple[str, fx.Node]]


class _Logits(nn.Module):
    """The network, and the choice of the logits from what it returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.add_module(_ROOT, network)

    def forward(self, x: Tensor) -> Tensor:
        network = self.get_submodule(_ROOT)
        return pick_logits(network(x), type(network).__name__)


@torch.library.custom_op("dmn::entered", mutates_args=())
def _entered(x: Tensor, path: str) -> Tensor:
    """Mark where a module that is kept whole begins."""
    return x.clone()


@torch.library.custom_op("dmn::returned", mutates_args=())
def _returned(x: Tensor, path: str) -> Tensor:
    """Mark what a module returns."""
    return x.clone()


for _mark in (_entered, _returned):
    _mark.register_fake(lambda x, path: torch.empty_like(x))
_MARKS = {"entered": torch.ops.dmn.entered.default, "returned": torch.ops.dmn.returned.default}


def capture(model: nn.Module, is_leaf: Callable[[nn.Module], bool], example: Tensor) -> Captured:
    """Capture a network by `torch.export` as a graph of calls of torch.

    The graph is for images of the example's shape and type. It takes batches of other sizes where
    `torch.export` finds that the network does.

    Args:
        model: In eval mode; constants that it computes are added to its buffers.
        is_leaf: Returns whether to keep a module whole: one that maps a tensor to a tensor.
        example: Images (B, C, H, W).

    Raises:
        UnsupportedError: if an operation has no counterpart; names it. Other errors are those of
            `torch.export`.
    """
    from torch.export import Dim, export  # takes a second

    example = example.detach().clone()
    with _marks(model, is_leaf), torch.no_grad(), without_fast_path():
        program = export(_Logits(model), (example,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    return _Writer(model, program.module(check_guards=False), example).run()


@contextmanager
def _marks(model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> Iterator[None]:
    """Mark what modules return, and where those begin that are kept whole."""
    handles = []

    def mark(module: nn.Module, path: str) -> None:
        entered: list[bool] = []
        whole = is_leaf(module)
        if whole:
            handles.append(
                module.register_forward_pre_hook(_enter(path, entered), with_kwargs=True)
            )
        handles.append(module.register_forward_hook(_return(path, entered)))
        for name, child in () if whole else module.named_children():
            mark(child, f"{path}.{name}" if path else name)

    try:
        for name, child in model.named_children():
            mark(child, name)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(path: str, entered: list[bool]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        maps_one = not kwargs and len(args) == 1 and isinstance(args[0], Tensor)
        entered.append(maps_one)
        return ((_MARKS["entered"](args[0], path),), {}) if maps_one else None

    return hook


def _return(path: str, entered: list[bool]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        was_entered = bool(entered) and entered.pop()
        if isinstance(output, Tensor):
            return _MARKS["returned"](output, path)
        if was_entered:
            raise UnsupportedError(f"the module {path!r} returns {type(output).__name__}")
        return None

    return hook


class _Writer:
    """Write an exported graph as calls of torch.

    Args:
        model: The network.
        exported: What `torch.export` made of it, with marks.
        example: The images that it was exported with.
    """

    def __init__(self, model: nn.Module, exported: Any, example: Tensor) -> None:
        self._model, self._exported, self._example = model, exported, example
        self._graph = fx.Graph()
        self._new: dict[fx.Node, Any] = {}
        self._entered: tuple[str, Any] | None = None
        self._returned: list[tuple[str, fx.Node]] = []

    def run(self) -> Captured:
        """Return the graph."""
        for node in self._exported.graph.nodes:
            if node.op == "placeholder":
                self._new[node] = self._images(node)
            elif node.op == "get_attr":
                path = self._path_of_tensor(str(node.target))
                self._new[node] = self._graph.create_node("get_attr", path)
            elif node.op == "output":
                outputs = fx.node.map_arg(node.args[0], self._new.__getitem__)
                self._graph.output(outputs[0] if isinstance(outputs, tuple | list) else outputs)
            elif node.target in _MARKS.values():
                self._mark(node)
            elif node.op == "call_function" and not self._is_inside(node):
                self._write(node)
        return Captured(self._graph, self._returned)

    def _images(self, node: fx.Node) -> fx.Node:
        """Record the images, and the check of their shape and type."""
        images = self._graph.placeholder(find_image_argument(self._model))
        where = type(self._model).__name__
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, int):
                asked = self._graph.call_method("size", (images, axis))
                self._graph.call_function(require, (asked, size, where))
        for asked_for in ("ndim", "dtype"):
            asked = self._graph.call_function(getattr, (images, asked_for))
            expected = getattr(self._example, asked_for)
            self._graph.call_function(require, (asked, expected, where))
        return images

    def _path_of_tensor(self, path: str) -> str:
        """Return the path of a parameter or buffer; a constant becomes a buffer."""
        own = path.removeprefix(f"{_ROOT}.")
        value = operator.attrgetter(path)(self._exported)
        try:
            found = operator.attrgetter(own)(self._model)
        except AttributeError:
            found = None
        if isinstance(found, Tensor) and found.shape == value.shape:
            return own
        name = f"_tensor_constant{len(self._model._buffers)}"
        self._model.register_buffer(name, value.detach().clone())
        return name

    def _is_inside(self, node: fx.Node) -> bool:
        """Return whether an operation is part of a module that is kept whole."""
        computes_sizes = not isinstance(node.meta.get("val"), Tensor)
        elsewhere = computes_sizes and self._new.keys() >= {*node.all_input_nodes}
        return self._entered is not None and not elsewhere

    def _mark(self, node: fx.Node) -> None:
        """Read a mark, and leave it out."""
        mark: Any = node.args
        source, path = mark
        begins = node.target is _MARKS["entered"]
        if begins and self._entered is None:
            self._entered = (path, self._new[source])
        elif not begins and self._entered and self._entered[0] == path:
            module = self._graph.create_node("call_module", path, (self._entered[1],))
            self._copy_place(node, module)
            self._new[node], self._entered = module, None
            self._returned.append((path, module))
        elif self._entered is None:
            self._new[node] = self._new[source]
            self._returned.append((path, self._new[source]))

    def _write(self, node: fx.Node) -> None:
        """Write one operation."""
        target: Any = node.target
        if getattr(target, "_opname", "") in _CHECKS:
            return
        if target is operator.getitem and self._is_first_alone(node.args[0]):
            self._new[node] = self._new[node.args[0]]  # type: ignore[index]
            return
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._new.__getitem__)
        if isinstance(target, OpOverload):
            first: Any = node.args[0] if node.args else None
            value = first.meta.get("val") if isinstance(first, fx.Node) else None
            try:
                call = written(target, args, kwargs, getattr(value, "ndim", 0) or 1)
            except LookupError as error:
                raise UnsupportedError(f"no counterpart of {error.args[0]} in torch") from error
            target, args, kwargs = call
        op = "call_method" if isinstance(target, str) else "call_function"
        self._new[node] = self._graph.create_node(op, target, args, kwargs)
        self._copy_place(node, self._new[node])

    def _is_first_alone(self, node: Any) -> bool:
        """Return whether an operation of several results is written as its first."""
        if getattr(node.target, "_opname", "") not in FIRST_ALONE:
            return False
        if any(user.args[1] != 0 and user.users for user in node.users):
            raise UnsupportedError(f"the indices of {node.target} are used")
        return True

    def _copy_place(self, node: fx.Node, new: fx.Node) -> None:
        """Note the path and the class of the module that an operation belongs to."""
        stack = node.meta.get("nn_module_stack", {}).values()
        places = [(path, kind) for path, kind in stack if path.startswith(_ROOT)]
        path, kind = places[-1] if places else ("", "")
        own = path.partition("@")[0].removeprefix(_ROOT).removeprefix(".")
        new.meta["nn_module_stack"] = {own: (own, kind)}
