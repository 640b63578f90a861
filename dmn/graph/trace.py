"""A network as a graph of operations that overwrite nothing, traced from a copy of it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize
from torchvision.ops import StochasticDepth, stochastic_depth

from dmn.errors import UnsupportedError
from dmn.graph.tracer import IN_PLACE_OPERATORS, Tracer, is_number, tensors_by_type
from dmn.graph.unpack import SPLITTING, unpack_splits

_LAYERS = "layers"  # in a network's meta: names of nodes, by name of layer
_RESHAPED = (
    *("reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim"),
    *("moveaxis", "squeeze", "unsqueeze", "narrow", "select", "t", "ravel"),
)
_VIEWS = {
    *SPLITTING,
    *_RESHAPED,
    *(getattr(torch, name) for name in _RESHAPED),
    *("view", "view_as", "reshape_as", "expand", "expand_as", "contiguous", "detach", "T", "mT"),
    *("to", "float", "double", "half", "type", "unfold", "diagonal"),
    *(getattr(F, f"dropout{n}") for n in ("", "1d", "2d", "3d")),
    *(getattr(nn, f"Dropout{n}") for n in ("", "1d", "2d", "3d")),
    *(F.alpha_dropout, F.feature_alpha_dropout, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(operator.getitem, stochastic_depth, StochasticDepth, nn.Flatten, nn.Unflatten, nn.Identity),
}


class Unsupported(NamedTuple):
    """A node that cannot be rewritten, and what it would need.

    Attributes:
        path: Module path of the node, and its operation.
        needs: What is in the way, and what would help.
    """

    path: str
    needs: str

    def __str__(self) -> str:
        return f"{self.path}: {self.needs}"


def unsupported(nodes: Iterable[Unsupported], job: str) -> UnsupportedError:
    """Return the error that lists every node of a network that cannot be rewritten.

    Args:
        nodes: What was found, before anything ran.
        job: What was to be done, and with which network.
    """
    nodes = tuple(nodes)
    lines = (f"  {node}" for node in nodes)
    error = UnsupportedError(f"cannot {job}: {len(nodes)} of its operations have no rule", *lines)
    error.nodes = nodes
    return error


class Traced(NamedTuple):
    """A graph in eval mode, and the names of what is in it.

    Attributes:
        network: The same function, out of place; its submodules keep their names.
        layers: For each name, "input" first, the node that holds what the module or operation of
            that name returns; a second call of one module is called `name_1`.
        unsupported: What could not be made out of place.
    """

    network: fx.GraphModule
    layers: dict[str, fx.Node]
    unsupported: tuple[Unsupported, ...]


@torch.inference_mode(False)  # a copy made inside could not be differentiated outside
def trace(model: nn.Module, is_leaf: Callable[[nn.Module], bool] = lambda module: False) -> Traced:
    """Write a copy of a model, in eval mode, as a graph of out-of-place operations.

    Args:
        model: Takes one tensor, returns one. It is not changed.
        is_leaf: Which modules to keep whole, besides torch's own.

    Raises:
        UnsupportedError: for control flow that depends on data, more than one input or output, and
            modules with hooks; names the module.
    """
    again = isinstance(model, fx.GraphModule) and _LAYERS in model.meta
    if not again:
        _refuse_foreign(model)
    copy: Any = deepcopy(model).eval().requires_grad_(False)
    if again:
        return Traced(copy, _named(copy), ())
    for module in list(copy.modules()):
        if parametrize.is_parametrized(module):
            kind = type(module)  # shared with the original, and changed by what follows
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    tracer = Tracer(is_leaf)
    try:
        with tensors_by_type():
            graph = tracer.trace(copy)
    except Exception as error:
        where = f"module {tracer.path!r}" if tracer.path else "the model itself"
        raise UnsupportedError(
            f"cannot trace {type(model).__name__}, at {where}: {error}",
            "Its forward must not branch on values; move such a part into a module of its own, "
            "and register a rule for it.",
        ) from error
    network = fx.GraphModule(copy, graph, type(model).__name__)
    refused = _overwrite_nothing(network)
    unpack_splits(graph)
    graph.eliminate_dead_code()
    _check_ends(graph)
    network.delete_all_unused_submodules()
    network.recompile()
    network.meta[_LAYERS] = {name: node.name for name, node in _names(tracer, graph).items()}
    return Traced(network.eval(), _named(network), tuple(refused))


def rename(network: fx.GraphModule, node: fx.Node, other: fx.Node) -> None:
    """Let another node have a node's names, before that is erased."""
    names = network.meta[_LAYERS]
    names.update({name: other.name for name, held in names.items() if held == node.name})


def _named(network: fx.GraphModule) -> dict[str, fx.Node]:
    """Return the nodes by name, in the order in which they run."""
    nodes = {node.name: node for node in network.graph.nodes}
    names = {name: nodes[held] for name, held in network.meta[_LAYERS].items() if held in nodes}
    order = {node: position for position, node in enumerate(nodes.values())}
    return dict(sorted(names.items(), key=lambda item: order[item[1]]))


def target_of(network: fx.GraphModule, node: fx.Node) -> Any:
    """Return what a node calls: its module, its function, or its method's name."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def describe(network: fx.GraphModule, node: fx.Node) -> str:
    """Name a node for people: its path, and what it calls."""
    target = target_of(network, node)
    called = type(target).__name__ if isinstance(target, nn.Module) else _name(target)
    return f"{_path(node) or type(network).__name__} ({called})"


def _names(tracer: Tracer, graph: fx.Graph) -> dict[str, fx.Node]:
    named = [("input", node) for node in graph.nodes if node.op == "placeholder"][:1]
    named += tracer.returned
    called = {node for _, node in named}
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and node not in called:
            named.append((_path(node), node))
    names: dict[str, fx.Node] = {}
    for name, node in named:
        unique, repeat = name, 0
        while unique in names:
            repeat += 1
            unique = f"{name}_{repeat}"
        names[unique] = node
    return names


def _path(node: fx.Node) -> str:
    """Return the module path of a node; of an operation, within the module that calls it."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    if node.op == "call_module":
        return str(node.target)
    return ".".join(part for part in (path, _name(node.target)) if part)


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _refuse_foreign(model: nn.Module) -> None:
    """Refuse what a graph would leave out: hooks, and a forward set on the instance."""
    for what, is_so in _FOREIGN.items():
        names = [name or type(model).__name__ for name, m in model.named_modules() if is_so(m)]
        if names:
            raise UnsupportedError(
                f"{what} on {', '.join(names)}: not in the graph; remove it first"
            )


_FOREIGN: dict[str, Callable[[nn.Module], bool]] = {
    "forward hooks (weight_norm has one: use torch.nn.utils.remove_weight_norm)": lambda module: (
        bool(module._forward_hooks or module._forward_pre_hooks)
    ),
    "a forward of the instance's own": lambda module: "forward" in module.__dict__,
}


def _check_ends(graph: fx.Graph) -> None:
    inputs = [node for node in graph.nodes if node.op == "placeholder" and not node.args]
    (output,) = (node for node in graph.nodes if node.op == "output")
    if len(inputs) != 1 or not isinstance(output.args[0], fx.Node):
        raise UnsupportedError(
            f"the model takes {len(inputs)} inputs and returns {output.args[0]}; wrap it so that "
            "it takes one tensor of images and returns one of logits"
        )


def _overwrite_nothing(network: fx.GraphModule) -> list[Unsupported]:
    """Replace in-place operations; what read the overwritten value reads the new one."""
    unsupported = []
    nodes = list(network.graph.nodes)
    order = {node: position for position, node in enumerate(nodes)}
    calls = [node for node in nodes if node.op.startswith("call")]
    in_place = [node for node in calls if _becomes_out_of_place(network, node)]
    numbers: set[fx.Node] = set()  # nothing else sees it when they change
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


def _becomes_out_of_place(network: fx.GraphModule, node: fx.Node) -> bool:
    """Make one operation out of place; returns whether it was in place."""
    target = target_of(network, node)
    if isinstance(target, nn.Module):
        return bool(getattr(target, "inplace", False))  # switched off below, for all its calls
    if node.kwargs.get("inplace"):
        node.update_kwarg("inplace", False)
        return True
    replacement = IN_PLACE_OPERATORS.get(target) or _without_underscore(target)
    if replacement:
        node.target = replacement
    return bool(replacement)


def _without_underscore(target: Any) -> Any:
    """Return what does out of place what a function such as relu_ does in place."""
    name = _name(target)
    if not name.endswith("_") or name.endswith("__"):
        return None
    name = name.removesuffix("_")
    if isinstance(target, str):
        return name
    return getattr(torch, name, None) or getattr(F, name, None)


def _aliases(network: fx.GraphModule, node: fx.Node) -> set[fx.Node]:
    """Return the nodes whose values may share a node's memory."""
    found, todo = set(), [node]
    while todo:
        here = todo.pop()
        sources = here.all_input_nodes[:1] if _is_view(network, here) else []
        views = [user for user in here.users if _is_view(network, user)]
        todo += [other for other in (*sources, *views) if other not in found and other is not node]
        found.update(todo)
    return found


def _is_view(network: fx.GraphModule, node: fx.Node) -> bool:
    target = target_of(network, node)
    return (type(target) if isinstance(target, nn.Module) else target) in _VIEWS
