"""A module for each call, activation and addition of a graph."""

from __future__ import annotations

import operator
from copy import deepcopy
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dmn.graph.trace import target_of
from dmn.graph.tracer import is_query
from dmn.nn import Add

Layers = dict[str, fx.Node]


def copy_shared_modules(network: fx.GraphModule, layers: Layers) -> None:
    """Give each call of a module a module of its own."""
    targets = set()
    for node in network.graph.find_nodes(op="call_module"):
        if node.target in targets:
            module = deepcopy(target_of(network, node))
            node.target = free_path(network, layers, node, node.target)
            network.add_submodule(node.target, module)
        targets.add(node.target)


_WINDOWS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
# Functions as modules: which, of how many tensors, and by which options after them.
_OPERATIONS: dict[Any, tuple[type[nn.Module], int, tuple[str, ...]]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), (nn.ReLU, 1, ("inplace",))),
    **dict.fromkeys((operator.add, torch.add, "add"), (Add, 2, ())),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid"), (nn.Sigmoid, 1, ())),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), (nn.Tanh, 1, ())),
    F.elu: (nn.ELU, 1, ("alpha", "inplace")),
    F.leaky_relu: (nn.LeakyReLU, 1, ("negative_slope", "inplace")),
    F.softplus: (nn.Softplus, 1, ("beta", "threshold")),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), (nn.MaxPool1d, 1, _WINDOWS)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), (nn.MaxPool2d, 1, _WINDOWS)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), (nn.MaxPool3d, 1, _WINDOWS)),
}


def replace_operations(network: fx.GraphModule, layers: Layers) -> None:
    """Replace the operations of the table, unless they take a constant or another option."""
    tensors: set[Any] = set()  # that depend on the image; neither sizes nor parameters
    for node in network.graph.nodes:
        if node.op in ("placeholder", "call_module"):
            tensors.add(node)
        elif not is_query(node) and not tensors.isdisjoint(node.all_input_nodes):
            tensors.add(node)
            if node.target in _OPERATIONS:
                _replace_operation(network, layers, node, tensors)


def _replace_operation(
    network: fx.GraphModule, layers: Layers, node: fx.Node, tensors: set[Any]
) -> None:
    kind, count, names = _OPERATIONS[node.target]
    tensor_names = ("input", "other")[:count]
    arguments = {**dict(zip((*tensor_names, *names), node.args, strict=False)), **node.kwargs}
    operands = [arguments.pop(name, None) for name in tensor_names]
    arguments.pop("inplace", None)
    options = {name: value for name, value in arguments.items() if name in names}
    if len(options) < len(arguments) or len(node.args) > count + len(names):
        return
    nodes = [operand for operand in operands if isinstance(operand, fx.Node) and operand in tensors]
    if len(nodes) < count or any(isinstance(value, fx.Node) for value in options.values()):
        return
    call_module(network, layers, node, kind(**options), tuple(nodes))


def call_module(
    network: fx.GraphModule,
    layers: Layers,
    node: fx.Node,
    module: nn.Module,
    args: tuple[fx.Node, ...],
) -> None:
    """Let a node call a module in place of a function."""
    stack = node.meta.get("nn_module_stack", {})
    owner = [path for path, _ in stack.values() if path][-1:]
    name = ".".join([*owner, str(getattr(node.target, "__name__", node.target))])
    path = free_path(network, layers, node, name)
    network.add_submodule(path, module)
    node.op, node.target, node.args, node.kwargs = "call_module", path, args, {}
    node.meta["nn_module_stack"] = {**stack, path: (path, type(module))}


def free_path(network: fx.GraphModule, layers: Layers, node: fx.Node, path: str) -> str:
    """Return the name that the trace gave a call, numbered if a submodule has it."""
    traced_names = [name for name, layer_node in layers.items() if layer_node is node]
    path = next((name for name in traced_names if name.startswith(path)), path)
    modules = dict(network.named_modules())
    numbered = (f"{path}_{repeat}" if repeat else path for repeat in count())
    return next(name for name in numbered if name not in modules)
