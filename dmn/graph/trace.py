"""Trace a copy of a network as a graph of operations, none of them in place."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from dmn.errors import NeedsExampleError, UnsupportedError
from dmn.graph.attention import return_output_alone, without_fast_path
from dmn.graph.hooks import refuse_hooks, remove_backward_hooks
from dmn.graph.in_place import replace_in_place
from dmn.graph.nodes import Unsupported, describe, path_of, target_of, unsupported
from dmn.graph.shapes import UnknownShapeError
from dmn.graph.tracer import TracedNumber, Tracer, tensors_by_type
from dmn.graph.unpack import unpack_splits
from dmn.graph.wrappers import refuse_without_code, unwrap, unwrap_submodules

if TYPE_CHECKING:
    from dmn.graph.exported import Captured

__all__ = ["Traced", "Unsupported", "describe", "rename", "target_of", "trace", "unsupported"]

LAYERS = "layers"  # key in a network's meta: the name of the node for each name of a layer


class Traced(NamedTuple):
    """A network as a graph in eval mode, and the names of its layers; made by `trace`.

    Attributes:
        network: The same function without in-place operations. Its submodules keep their names.
        layers: By name, the node that returns the output of this module or operation. "input" comes
            first. The second call of a module `name` is named `name_1`.
        unsupported: In-place operations that could not be replaced, and attention whose weights
            are read.

    Examples:
        >>> traced = trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)))
        >>> {name: node.op for name, node in traced.layers.items()}
        {'input': 'placeholder', '0': 'call_module', '1': 'call_module'}
        >>> traced.network.get_submodule("1")
        ReLU()
    """

    network: fx.GraphModule
    layers: dict[str, fx.Node]
    unsupported: tuple[Unsupported, ...]


@torch.inference_mode(False)  # a copy made inside could not be differentiated outside
def trace(
    model: nn.Module,
    is_leaf: Callable[[nn.Module], bool] = lambda module: False,
    example: Tensor | None = None,
) -> Traced:
    """Write a copy of a model, in eval mode, as a graph of out-of-place operations.

    Args:
        model: Takes one tensor, and returns logits in a form that `dmn.nn.pick_logits` knows; the
            graph returns them as a tensor. The model is not changed. `DataParallel` and what
            `torch.compile` returns stand for the network inside.
        is_leaf: Returns whether to keep a module whole. Modules of torch are always kept whole.
        example: Images (B, C, H, W). Their shapes decide where the forward branches on shapes or
            loops over them. The graph refuses images whose shapes would lead elsewhere.

    Raises:
        UnsupportedError: for control flow that depends on values, or on shapes if there is no
            example; for several inputs, other outputs, and modules with hooks. The message names
            the module.

    Examples:
        >>> class Block(nn.Module):
        ...     def forward(self, x):
        ...         x += 1
        ...         return x.relu()
        >>> print(trace(Block()).network.code.strip())
        def forward(self, x):
            iadd = x + 1;  x = None
            relu = iadd.relu();  iadd = None
            return relu
    """
    model = unwrap(model)
    traced_before = isinstance(model, fx.GraphModule) and LAYERS in model.meta
    if not traced_before:
        refuse_without_code(model)
        refuse_hooks(model)
    if traced_before:
        copy: Any = deepcopy(model).eval().requires_grad_(False)
        type(copy).__name__ = type(model).__name__  # a class of its own, whose name is not copied
        return Traced(copy, nodes_by_name(copy), ())
    copy = _plain_copy(model)
    tracer = Tracer(is_leaf, example)
    try:
        with tensors_by_type(), without_fast_path():
            graph, returned = tracer.trace(copy), tracer.returned
    except UnsupportedError:
        raise
    except Exception as error:
        refusal = _refusal(model, tracer, error)
        if example is None:
            raise refusal from error
        copy = _plain_copy(model)
        graph, returned = _captured(copy, tracer, example, refusal)
    network = fx.GraphModule(copy, graph, type(model).__name__)
    refused = replace_in_place(network)
    unpack_splits(graph)
    refused += return_output_alone(network)
    graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    network.meta[LAYERS] = {name: node.name for name, node in _name_nodes(returned, graph).items()}
    return Traced(network.eval(), nodes_by_name(network), tuple(refused))


def _plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode, without wrappers, parametrizations and hooks."""
    copy: nn.Module = deepcopy(model).eval().requires_grad_(False)
    unwrap_submodules(copy)
    remove_backward_hooks(copy)
    _remove_parametrizations(copy)
    return copy


def _captured(
    copy: nn.Module, tracer: Tracer, example: Tensor, refusal: UnsupportedError
) -> Captured:
    """Capture by `torch.export` what the tracer refused; say both reasons if that fails, too."""
    from dmn.graph.exported import capture  # loads much of torch, for few networks

    try:
        return capture(copy, lambda module: tracer.is_leaf_module(module, ""), example)
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().partition("\n")[0]
        raise type(refusal)(f"{refusal} (torch.export fails, too: {reason})") from error


def _refusal(model: nn.Module, tracer: Tracer, error: Exception) -> UnsupportedError:
    """Say in one line which module cannot be traced, and what to do."""
    location = f"module {tracer.path!r}" if tracer.path else "the model itself"
    place = f"cannot trace {type(model).__name__}, at {location}:"
    reason = (str(error) or type(error).__name__).partition("\n")[0]
    if isinstance(error, UnknownShapeError) or TracedNumber.__name__ in reason:
        return NeedsExampleError(
            f"{place} control flow depends on the shape of the images; pass images as `example`"
        )
    return UnsupportedError(f"{place} {reason}{_ADVICE}")


_ADVICE = (
    "; its forward must not branch on values: move such a part into a module of its own, and "
    "register a rule for it by dmn.rules.add_rule"
)


def _remove_parametrizations(model: nn.Module) -> None:
    """Store the weights of parametrized modules as they are, in place."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            shared_class: Any = type(module)  # with the original; the loop below changes it
            module.__class__ = type(
                shared_class.__name__, shared_class.__bases__, dict(vars(shared_class))
            )
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)


def rename(network: fx.GraphModule, node: fx.Node, replacement: fx.Node) -> None:
    """Give the layer names of a node to its replacement, before the node is erased."""
    names = network.meta[LAYERS]
    names.update(
        {name: replacement.name for name, node_name in names.items() if node_name == node.name}
    )


def nodes_by_name(network: fx.GraphModule) -> dict[str, fx.Node]:
    """Return the nodes by name, in the order in which they run."""
    nodes = {node.name: node for node in network.graph.nodes}
    names = {
        name: nodes[node_name]
        for name, node_name in network.meta[LAYERS].items()
        if node_name in nodes
    }
    order = {node: position for position, node in enumerate(nodes.values())}
    return dict(sorted(names.items(), key=lambda item: order[item[1]]))


def _name_nodes(returned: list[tuple[str, fx.Node]], graph: fx.Graph) -> dict[str, fx.Node]:
    named_nodes = [("input", node) for node in graph.nodes if node.op == "placeholder"][:1]
    named_nodes += returned
    named_already = {node for _, node in named_nodes}
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and node not in named_already:
            named_nodes.append((path_of(node), node))
    names: dict[str, fx.Node] = {}
    for name, node in named_nodes:
        unique, repeat = name, 0
        while unique in names:
            repeat += 1
            unique = f"{name}_{repeat}"
        names[unique] = node
    return names
