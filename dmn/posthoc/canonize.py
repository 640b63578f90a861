"""The same network without BatchNorm, with a module for each call, ReLU and residual addition.

Rules of attribution are defined for single operations, and their maps depend on how a network is
written: a BatchNorm after a convolution is explained otherwise than the convolution that does both.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import count
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from dmn.nn import Add, ConvexConcave
from dmn.posthoc.graph import (
    Unsupported,
    UnsupportedError,
    describe,
    is_query,
    rename,
    target_of,
    trace,
)

_Layers = dict[str, fx.Node]
_KEPT = (Add, ConvexConcave)  # dmn's own modules that are operations


def hookable(model: nn.Module, example: Tensor | None = None) -> fx.GraphModule:
    """Write a copy of a model with a module for each call, ReLU and addition, none in place.

    Hooks of attribution then see every operation, and each only once; BatchNorm stays.
    A second call of the module `name` is `name_1`; the addition in `block` is `block.add`.

    Args:
        model: Takes one tensor, returns one. It is not changed.
        example: A batch, whose shapes the nodes of the graph then tell.

    Returns:
        The same function, in eval mode and without trainable parameters.

    Raises:
        UntraceableError: where the model cannot be written as a graph.
        UnsupportedError: lists what cannot be made out of place, and why.
    """
    return _written(model, example, lambda network: [], "rewrite")


def canonize(model: nn.Module, example: Tensor | None = None) -> fx.GraphModule:
    """Write a copy of a model without BatchNorm, with a module for each call, ReLU and addition.

    It is `hookable`, with every BatchNorm folded into the linear operation before it, else into
    those after it; failing both it becomes a depthwise convolution of size 1, or a diagonal
    `nn.Linear`, of its own path.
    Without an example, a BatchNorm1d beside a Linear of as many features is taken to see (B, C).

    Args:
        model: Takes one tensor, returns one. It is not changed.
        example: A batch, to tell (B, C) from (B, C, L) in BatchNorm1d and SyncBatchNorm.

    Returns:
        The same function, in eval mode and without trainable parameters.

    Raises:
        UntraceableError: where the model cannot be written as a graph.
        UnsupportedError: lists every BatchNorm that cannot be folded, and why.

    Source: Motzkus, Weber & Lapuschkin 2022, Measurably Stronger ... via Model Canonization.
    """
    return _written(model, example, _fold, "canonize")


@contextmanager
def canonized(model: nn.Module, example: Tensor | None = None) -> Iterator[nn.Module]:
    """Let a model behave as its canonized form within a block, and restore it afterwards.

    Look submodules up inside the block: those found before are not the ones that run. The block
    cannot be nested, nor the model traced inside it, as its class's own forward is out of use.

    Args:
        model: As for `canonize`, with its example and its errors.
        example: Likewise.

    Yields:
        The model itself.
    """
    network = canonize(model, example)
    swapped = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "training")
    inside = {name: network.__dict__[name] for name in swapped} | {"forward": network.forward}
    outside = {name: model.__dict__[name] for name in inside if name in model.__dict__}
    model.__dict__.update(inside)
    try:
        yield model
    finally:
        del model.__dict__["forward"]
        model.__dict__.update(outside)


def _written(
    model: nn.Module,
    example: Tensor | None,
    fold: Callable[[fx.GraphModule], list[Unsupported]],
    job: str,
) -> fx.GraphModule:
    network, layers, unsupported = trace(model, lambda module: isinstance(module, _KEPT))
    if example is not None:
        ShapeProp(network).propagate(example)
    _one_module_for_each_call(network, layers)
    _operations_become_modules(network, layers)
    if refused := [*unsupported, *fold(network)]:
        raise UnsupportedError(refused, f"{job} {type(model).__name__}")
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()
    return network.eval().requires_grad_(False)


def _one_module_for_each_call(network: fx.GraphModule, layers: _Layers) -> None:
    seen = set()
    for node in network.graph.find_nodes(op="call_module"):
        if node.target in seen:
            module = deepcopy(target_of(network, node))
            node.target = _free_path(network, layers, node, node.target)
            network.add_submodule(node.target, module)
        seen.add(node.target)


_OPERATIONS: dict[Any, tuple[type[nn.Module], int]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), (nn.ReLU, 1)),
    **dict.fromkeys((operator.add, torch.add, "add"), (Add, 2)),
}


def _operations_become_modules(network: fx.GraphModule, layers: _Layers) -> None:
    """Replace the operations of the table, unless they take a constant or an option as well."""
    tensors: set[Any] = set()  # that depend on the image; neither sizes nor parameters
    for node in network.graph.nodes:
        if node.op in ("placeholder", "call_module"):
            tensors.add(node)
        elif not is_query(node) and not tensors.isdisjoint(node.all_input_nodes):
            tensors.add(node)
            kind, operands = _OPERATIONS.get(node.target, (None, 0))
            given = [*node.args, *(node.kwargs[key] for key in node.kwargs if key != "inplace")]
            nodes = [value for value in given if isinstance(value, fx.Node) and value in tensors]
            if kind and len(given) == len(nodes) == operands:
                stack = node.meta.get("nn_module_stack", {})
                owner = [path for path, _ in stack.values() if path][-1:]
                name = ".".join([*owner, getattr(node.target, "__name__", node.target)])
                path = _free_path(network, layers, node, name)
                network.add_submodule(path, kind())
                node.op, node.target, node.args, node.kwargs = "call_module", path, tuple(nodes), {}
                node.meta["nn_module_stack"] = {**stack, path: (path, kind)}


def _free_path(network: fx.GraphModule, layers: _Layers, node: fx.Node, path: str) -> str:
    """Return the name that the trace gave a call, unless a submodule has it."""
    given = [name for name, named in layers.items() if named is node]
    path = next((name for name in given if name.startswith(path)), path)
    taken = dict(network.named_modules())
    numbered = (f"{path}_{repeat}" if repeat else path for repeat in count())
    return next(name for name in numbered if name not in taken)


_RANKS: dict[type[nn.Module], int] = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}  # others take several
_OUTPUT_AXES: dict[type[nn.Module], int] = {  # of the weight, see _scaled
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), 1),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), 2),
}
_INPUT_AXIS = 2


class _Norm(NamedTuple):
    """A BatchNorm as x * scale + shift in float64, and the rank of its x where that is known."""

    node: fx.Node
    scale: Tensor
    shift: Tensor
    rank: int | None


def _read(node: fx.Node, module: Any) -> _Norm:
    norm, seen = deepcopy(module).to("cpu", torch.float64), node.meta.get("tensor_meta")
    scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    rank = _RANKS.get(type(module)) or (len(seen.shape) if seen else None)
    return _Norm(node, scale, shift, rank)


def _fold(network: fx.GraphModule) -> list[Unsupported]:
    """Fold every BatchNorm; returns those that cannot be folded, and why."""
    norms, refused = [], []
    for node in network.graph.nodes:
        target = target_of(network, node)
        if target in (F.batch_norm, torch.batch_norm):
            refused.append((node, "is a function; call a BatchNorm module instead"))
        elif isinstance(target, _BatchNorm) and target.running_mean is None:
            refused.append((node, "keeps no running statistics, so it depends on the batch"))
        elif isinstance(target, _BatchNorm):
            norms.append(_read(node, target))
    norms = [norm for norm in norms if not _into_preceding(network, norm)]
    norms = [norm for norm in norms[::-1] if not _into_following(network, norm)][::-1]
    for norm in norms:
        if norm.rank is None:
            refused.append((norm.node, "sees (B, C) or (B, C, L); to tell, pass `example`"))
        elif not _into_preceding(network, norm):
            _into_its_own(network, norm, norm.rank)
    return [Unsupported(describe(network, node), needs) for node, needs in refused]


def _into_preceding(network: fx.GraphModule, norm: _Norm) -> bool:
    before = norm.node.all_input_nodes[0]
    if len(before.users) > 1 or not _folds_into(network, before, norm):
        return False
    linear = target_of(network, before)
    _fit(linear, norm.scale, _OUTPUT_AXES[type(linear)], norm.shift, gain=norm.scale)
    return _removed(network, norm.node)


def _into_following(network: fx.GraphModule, norm: _Norm) -> bool:
    if not all(_folds_into(network, user, norm) for user in norm.node.users):
        return False
    for module in (target_of(network, user) for user in norm.node.users):
        shift = _scaled(module, norm.shift, _INPUT_AXIS).sum((2, 3)).flatten()
        _fit(module, norm.scale, _INPUT_AXIS, shift)
    return _removed(network, norm.node)


def _into_its_own(network: fx.GraphModule, norm: _Norm, rank: int) -> None:
    path, channels = str(norm.node.target), len(norm.scale)
    kind: Any = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[rank]
    options = {} if rank == 2 else {"kernel_size": 1, "groups": channels}
    unit = kind(channels, channels, bias=False, device="meta", **options)  # draws no numbers
    one = torch.eye(channels) if rank == 2 else torch.ones(unit.weight.shape)
    unit.weight = nn.Parameter(one.to(target_of(network, norm.node).running_var))
    _fit(unit, norm.scale, _OUTPUT_AXES[type(unit)], norm.shift)
    network.set_submodule(path, unit)


def _removed(network: fx.GraphModule, norm: fx.Node) -> bool:
    linear = norm.all_input_nodes[0]
    rename(network, norm, linear)
    norm.replace_all_uses_with(linear)
    norm.graph.erase_node(norm)
    return True


def _folds_into(network: fx.GraphModule, node: fx.Node, norm: _Norm) -> bool:
    """Tell whether a norm folds into a node next to it, whose weights are its own."""
    linear, follows = target_of(network, node), node in norm.node.users
    read = {str(other.target).rpartition(".")[0] for other in node.graph.find_nodes(op="get_attr")}
    if type(linear) not in _OUTPUT_AXES or node.target in read:
        return False
    if isinstance(linear, nn.Linear):
        side = linear.in_features if follows else linear.out_features
        return norm.rank == 2 or (norm.rank is None and side == len(norm.scale))
    transposed = _OUTPUT_AXES[type(linear)] != 1
    padded = linear.padding != "valid" and any(linear.padding) and linear.padding_mode == "zeros"
    # where zeros stand in for inputs, the shift of these does not arrive
    return norm.rank != 2 and not (follows and (transposed or padded))


def _scaled(linear: Any, factor: Tensor, axis: int) -> Tensor:
    """Scale a weight, seen as (groups, outputs, inputs, taps) or transposed, along an axis."""
    weight, groups = linear.weight.to(factor), getattr(linear, "groups", 1)
    rows = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return torch.mul(rows, factor.view([groups, *(-1 if dim == axis else 1 for dim in (1, 2, 3))]))


def _fit(linear: Any, scale: Tensor, axis: int, shift: Tensor, gain: Tensor | float = 1.0) -> None:
    """Give an operation another weight and bias, rounded once."""
    like = linear.weight
    bias = shift if linear.bias is None else linear.bias.to(shift) * gain + shift
    linear.weight = nn.Parameter(_scaled(linear, scale, axis).view_as(like).to(like))
    linear.bias = nn.Parameter(bias.to(like))
