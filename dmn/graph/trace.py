"""Trace a copy of a network as a graph of operations, none of them in place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torchvision.ops import StochasticDepth, stochastic_depth

from dmn.errors import NeedsExampleError, UnsupportedError
from dmn.graph.hooks import refuse_hooks, remove_backward_hooks
from dmn.graph.shapes import UnknownShapeError
from dmn.graph.tracer import IN_PLACE_OPERATORS, TracedNumber, Tracer, is_number, tensors_by_type
from dmn.graph.unpack import SPLITTING, unpack_splits
from dmn.graph.wrappers import refuse_without_code, unwrap, unwrap_submodules

_LAYERS = "layers"  # key in a network's meta: the name of the node for each name of a layer
_RESHAPED = (
    *("reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim"),
    *("moveaxis", "squeeze", "unsqueeze", "narrow", "select", "t", "ravel"),
)
_VIEWS = {
    *SPLITTING,
    *_RESHAPED,
    *(getattr(torch, name) for name in _RESHAPED),
    *("view", "view_as", "reshape_as", "expand", "expand_as", "contiguous", "detach", "T", "mT"),
    *("to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda"),
    *("unfold", "diagonal"),
    *(getattr(F, f"dropout{n}") for n in ("", "1d", "2d", "3d")),
    *(getattr(nn, f"Dropout{n}") for n in ("", "1d", "2d", "3d")),
    *(F.alpha_dropout, F.feature_alpha_dropout, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(operator.getitem, stochastic_depth, StochasticDepth, nn.Flatten, nn.Unflatten, nn.Identity),
}


class Unsupported(NamedTuple):
    """An operation of a network that cannot be rewritten, and why; `UnsupportedError` lists them.

    Attributes:
        path: The module path of the operation, and its name.
        needs: The reason, and what would help.

    Examples:
        >>> print(Unsupported("block.softmax (softmax)", "leave it out, and explain the logits"))
        block.softmax (softmax): leave it out, and explain the logits
    """

    path: str
    needs: str

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


class Traced(NamedTuple):
    """A network as a graph in eval mode, and the names of its layers; made by `trace`.

    Attributes:
        network: The same function without in-place operations. Its submodules keep their names.
        layers: By name, the node that returns the output of this module or operation. "input" comes
            first. The second call of a module `name` is named `name_1`.
        unsupported: In-place operations that could not be replaced.

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
    traced_before = isinstance(model, fx.GraphModule) and _LAYERS in model.meta
    if not traced_before:
        refuse_without_code(model)
        refuse_hooks(model)
    copy: Any = deepcopy(model).eval().requires_grad_(False)
    if traced_before:
        type(copy).__name__ = type(model).__name__  # a class of its own, whose name is not copied
        return Traced(copy, _nodes_by_name(copy), ())
    unwrap_submodules(copy)
    remove_backward_hooks(copy)
    _remove_parametrizations(copy)
    tracer = Tracer(is_leaf, example)
    with _naming_the_place(model, tracer), tensors_by_type():
        graph = tracer.trace(copy)
    network = fx.GraphModule(copy, graph, type(model).__name__)
    refused = _replace_in_place(network)
    unpack_splits(graph)
    graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    network.meta[_LAYERS] = {name: node.name for name, node in _name_nodes(tracer, graph).items()}
    return Traced(network.eval(), _nodes_by_name(network), tuple(refused))


@contextmanager
def _naming_the_place(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Say in one line which module cannot be traced, and what to do."""
    try:
        yield
    except UnsupportedError:
        raise
    except Exception as error:
        location = f"module {tracer.path!r}" if tracer.path else "the model itself"
        place = f"cannot trace {type(model).__name__}, at {location}:"
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        if isinstance(error, UnknownShapeError) or TracedNumber.__name__ in reason:
            raise NeedsExampleError(
                f"{place} control flow depends on the shape of the images; pass images as `example`"
            ) from error
        raise UnsupportedError(f"{place} {reason}{_ADVICE}") from error


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
    names = network.meta[_LAYERS]
    names.update(
        {name: replacement.name for name, node_name in names.items() if node_name == node.name}
    )


def _nodes_by_name(network: fx.GraphModule) -> dict[str, fx.Node]:
    """Return the nodes by name, in the order in which they run."""
    nodes = {node.name: node for node in network.graph.nodes}
    names = {
        name: nodes[node_name]
        for name, node_name in network.meta[_LAYERS].items()
        if node_name in nodes
    }
    order = {node: position for position, node in enumerate(nodes.values())}
    return dict(sorted(names.items(), key=lambda item: order[item[1]]))


def target_of(network: fx.GraphModule, node: fx.Node) -> Any:
    """Return what a node calls: a module, a function, or the name of a method."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def describe(network: fx.GraphModule, node: fx.Node) -> str:
    """Describe a node for messages: its module path, and what it calls."""
    target = target_of(network, node)
    operation = type(target).__name__ if isinstance(target, nn.Module) else _name(target)
    return f"{_path(node) or type(network).__name__} ({operation})"


def _name_nodes(tracer: Tracer, graph: fx.Graph) -> dict[str, fx.Node]:
    named_nodes = [("input", node) for node in graph.nodes if node.op == "placeholder"][:1]
    named_nodes += tracer.returned
    named_already = {node for _, node in named_nodes}
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and node not in named_already:
            named_nodes.append((_path(node), node))
    names: dict[str, fx.Node] = {}
    for name, node in named_nodes:
        unique, repeat = name, 0
        while unique in names:
            repeat += 1
            unique = f"{name}_{repeat}"
        names[unique] = node
    return names


def _path(node: fx.Node) -> str:
    """Return the module path of a node; for an operation, that of its module and its name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    if node.op == "call_module":
        return str(node.target)
    return ".".join(part for part in (path, _name(node.target)) if part)


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _replace_in_place(network: fx.GraphModule) -> list[Unsupported]:
    """Replace in-place operations; later users of the overwritten value get the new one."""
    unsupported = []
    nodes = list(network.graph.nodes)
    order = {node: position for position, node in enumerate(nodes)}
    calls = [node for node in nodes if node.op.startswith("call")]
    in_place = [node for node in calls if _make_out_of_place(network, node)]
    numbers: set[fx.Node] = set()  # immutable, so that they have no aliases
    for node in calls:
        if is_number(node, numbers):
            numbers.add(node)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.__dict__["inplace"] = False
    for node in in_place:
        overwritten = node.all_input_nodes[0]
        if overwritten in numbers:
            continue
        later = {
            other: {user for user in other.users if order[user] > order[node]}
            for other in (overwritten, *_aliases(network, overwritten))
        }
        later.pop(node, None)
        for user in later.pop(overwritten):
            user.replace_input_with(overwritten, node)
        if any(later.values()):
            unsupported.append(
                Unsupported(
                    describe(network, node),
                    "overwrites a view of a tensor that is used again; write it out of place",
                )
            )
    return unsupported


def _make_out_of_place(network: fx.GraphModule, node: fx.Node) -> bool:
    """Make one operation out of place; returns whether it was in place."""
    target = target_of(network, node)
    if isinstance(target, nn.Module):
        return bool(getattr(target, "inplace", False))  # the caller switches it off, for all calls
    if node.kwargs.get("inplace"):
        node.update_kwarg("inplace", False)
        return True
    replacement = IN_PLACE_OPERATORS.get(target) or _without_underscore(target)
    if replacement:
        node.target = replacement
    return bool(replacement)


def _without_underscore(target: Any) -> Any:
    """Return the out-of-place version of a function or method such as relu_."""
    name = _name(target)
    if not name.endswith("_") or name.endswith("__"):
        return None
    name = name.removesuffix("_")
    if isinstance(target, str):
        return name
    return getattr(torch, name, None) or getattr(F, name, None)


def _aliases(network: fx.GraphModule, node: fx.Node) -> set[fx.Node]:
    """Return the nodes whose values may share a node's memory."""
    aliases, queue = set(), [node]
    while queue:
        current = queue.pop()
        sources = current.all_input_nodes[:1] if _is_view(network, current) else []
        views = [user for user in current.users if _is_view(network, user)]
        queue += [
            alias for alias in (*sources, *views) if alias not in aliases and alias is not node
        ]
        aliases.update(queue)
    return aliases


def _is_view(network: fx.GraphModule, node: fx.Node) -> bool:
    target = target_of(network, node)
    return (type(target) if isinstance(target, nn.Module) else target) in _VIEWS
