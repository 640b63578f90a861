"""The same network without BatchNorm, with a module for each call, ReLU and residual addition.

Attribution rules are defined for single operations, and their maps depend on how a network is
written: a convolution and a BatchNorm get another map than the one convolution that does both.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from dmn.canonize.affine import Affine, find_affine
from dmn.graph.equal import require_equal
from dmn.graph.trace import Unsupported, describe, rename, target_of, trace, unsupported
from dmn.graph.tracer import is_query
from dmn.graph.wrappers import unwrap
from dmn.nn import Add
from dmn.rules.table import find_rules, is_known

_Layers = dict[str, fx.Node]


def hookable(model: nn.Module, example: Tensor | None = None) -> fx.GraphModule:
    """Copy a model with a module for each call, activation and addition, none in place.

    Hooks then see every operation once. BatchNorm stays. The second call of the module `name` is
    named `name_1`, and the addition in `block` is `block.add`.

    Args:
        model: Takes one tensor and returns one. It is not changed.
        example: Images (B, C, H, W), from which the nodes of the graph get their shapes.

    Returns:
        The same function, in eval mode and without trainable parameters.

    Raises:
        UnsupportedError: if the model cannot be written as a graph, or has operations that cannot
            be made out of place; lists them.

    Examples:
        >>> class Block(nn.Module):
        ...     def forward(self, x):
        ...         return torch.relu(x) + x
        >>> [name for name, _ in hookable(Block()).named_children()]
        ['relu', 'add']
    """
    return _rewrite(model, example, lambda network, layers: [], "rewrite")


def canonize(model: nn.Module, example: Tensor | None = None) -> fx.GraphModule:
    """Copy a model without BatchNorm, with a module for each call, activation and addition.

    It is the result of `hookable`, with each BatchNorm folded into the linear operation before it,
    or else into those after it. Where neither is possible, BatchNorm becomes a depthwise 1 x 1
    convolution or a diagonal `nn.Linear`.

    Args:
        model: Takes one tensor and returns one. It is not changed.
        example: Images (B, C, H, W), to trace a forward that branches on shapes, and to distinguish
            (B, C) from (B, C, L) in BatchNorm1d and SyncBatchNorm. Without it, BatchNorm1d next to
            a Linear of as many features is taken to see (B, C).

    Returns:
        The same function, in eval mode and without trainable parameters.

    Raises:
        UnsupportedError: if the model cannot be written as a graph, or has BatchNorm that cannot be
            folded; lists them with the reasons.

    Source: Motzkus, Weber & Lapuschkin, Measurably Stronger Explanation Reliability via Model
        Canonization, ICIP 2022.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> [type(module).__name__ for module in canonize(net).children()]
        ['Conv2d', 'ReLU']
    """
    return _rewrite(model, example, _fold, "canonize")


@contextmanager
def canonized(model: nn.Module, example: Tensor | None = None) -> Iterator[nn.Module]:
    """Let a model behave as its canonized form within a block, and restore it afterwards.

    Look submodules up inside the block: those from before it do not run there. Blocks cannot be
    nested, and the model cannot be traced inside them.

    Args:
        model: As for `canonize`.
        example: As for `canonize`.

    Yields:
        The model itself.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> with canonized(net):
        ...     print(len(list(net.children())))
        2
        >>> len(list(net.children()))
        3
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


@torch.inference_mode(False)
def _rewrite(
    model: nn.Module,
    example: Tensor | None,
    fold: Callable[[fx.GraphModule, _Layers], list[Unsupported]],
    job: str,
) -> fx.GraphModule:
    model = unwrap(model)
    network, layers, overwriting = trace(model, is_known, example)
    if example is not None:
        ShapeProp(network).propagate(example)
    _copy_shared_modules(network, layers)
    _replace_operations(network, layers)
    if refused := [*overwriting, *fold(network, layers)]:
        raise unsupported(refused, f"{job} {type(model).__name__}")
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()
    if example is not None:
        require_equal(network, model, example)
    return network.eval().requires_grad_(False)


def _copy_shared_modules(network: fx.GraphModule, layers: _Layers) -> None:
    targets = set()
    for node in network.graph.find_nodes(op="call_module"):
        if node.target in targets:
            module = deepcopy(target_of(network, node))
            node.target = _free_path(network, layers, node, node.target)
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


def _replace_operations(network: fx.GraphModule, layers: _Layers) -> None:
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
    network: fx.GraphModule, layers: _Layers, node: fx.Node, tensors: set[Any]
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
    stack = node.meta.get("nn_module_stack", {})
    owner = [path for path, _ in stack.values() if path][-1:]
    name = ".".join([*owner, str(getattr(node.target, "__name__", node.target))])
    path = _free_path(network, layers, node, name)
    network.add_submodule(path, kind(**options))
    node.op, node.target, node.args, node.kwargs = "call_module", path, tuple(nodes), {}
    node.meta["nn_module_stack"] = {**stack, path: (path, kind)}


def _free_path(network: fx.GraphModule, layers: _Layers, node: fx.Node, path: str) -> str:
    """Return the name that the trace gave a call, numbered if a submodule has it."""
    traced_names = [name for name, layer_node in layers.items() if layer_node is node]
    path = next((name for name in traced_names if name.startswith(path)), path)
    modules = dict(network.named_modules())
    numbered = (f"{path}_{repeat}" if repeat else path for repeat in count())
    return next(name for name in numbered if name not in modules)


_OUTPUT_AXES: dict[type[nn.Module], int] = {  # of the weight, see _scaled_weight
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), 1),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), 2),
}
_INPUT_AXIS = 2


def _fold(network: fx.GraphModule, layers: _Layers) -> list[Unsupported]:
    """Fold scales and shifts by constants; returns every norm that cannot be folded, and why."""
    refused = [
        (node, rule)
        for node, rule in find_rules(network).items()
        if isinstance(rule, str) and _is_norm(target_of(network, node))
    ]
    affines = [affine for affine in find_affine(network) if not _is_complement(affine)]
    affines = [affine for affine in affines if not _fold_into_preceding(network, affine)]
    affines = [affine for affine in affines[::-1] if not _fold_into_following(network, affine)][
        ::-1
    ]
    for affine in affines:
        norm = any(_is_norm(target_of(network, node)) for node in affine.nodes)
        if norm and affine.rank is None:
            refused.append((affine.node, "sees (B, C) or (B, C, L); to tell, pass `example`"))
        elif affine.rank and affine.by_channel and (norm or _is_like_norm(affine)):
            _replace_by_linear(network, layers, affine, affine.rank)
    network.graph.eliminate_dead_code()
    return [Unsupported(describe(network, node), needs) for node, needs in refused]


def _is_norm(target: Any) -> bool:
    return isinstance(target, _BatchNorm) or target in (F.batch_norm, torch.batch_norm)


def _is_complement(affine: Affine) -> bool:
    """Return whether it is like 1 - x, which is not a norm: its output has its own relevance."""
    return affine.scale.numel() == 1 and bool(affine.scale < 0)


def _is_like_norm(affine: Affine) -> bool:
    """Return whether it both scales and shifts each channel; either alone conserves relevance."""
    scales_and_shifts = bool((affine.scale != 1).any() and affine.shift.any())
    return scales_and_shifts and len(affine.scale) > 1


def _fold_into_preceding(network: fx.GraphModule, norm: Affine) -> bool:
    if len(norm.source.users) > 1 or not _folds_into(network, norm.source, norm):
        return False
    linear = target_of(network, norm.source)
    scale, shift = _expand(norm, linear, "out")
    _update_weights(linear, scale, _OUTPUT_AXES[type(linear)], shift, gain=scale)
    return _remove(network, norm)


def _fold_into_following(network: fx.GraphModule, norm: Affine) -> bool:
    if not all(_folds_into(network, user, norm) for user in norm.node.users):
        return False
    for module in (target_of(network, user) for user in norm.node.users):
        scale, constant = _expand(norm, module, "in")
        shift = _scaled_weight(module, constant, _INPUT_AXIS).sum((2, 3)).flatten()
        _update_weights(module, scale, _INPUT_AXIS, shift)
    return _remove(network, norm)


def _replace_by_linear(network: fx.GraphModule, layers: _Layers, norm: Affine, rank: int) -> None:
    if _fold_into_preceding(network, norm):  # what precedes it may have become linear by now
        return
    path, channels = str(norm.node.target), len(norm.scale)
    if norm.node.op != "call_module":
        path = _free_path(network, layers, norm.node, norm.node.name)
    kind: Any = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[rank]
    options = {} if rank == 2 else {"kernel_size": 1, "groups": channels}
    unit = kind(channels, channels, bias=False, device="meta", **options)  # draws no numbers
    identity = torch.eye(channels) if rank == 2 else torch.ones(unit.weight.shape)
    tensors = (*network.parameters(), *network.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), identity)
    unit.weight = nn.Parameter(identity.to(like))
    _update_weights(unit, norm.scale, _OUTPUT_AXES[type(unit)], norm.shift)
    network.add_submodule(path, unit)
    node = norm.node
    node.op, node.target, node.args, node.kwargs = "call_module", path, (norm.source,), {}
    for previous in reversed(norm.nodes[:-1]):
        node.graph.erase_node(previous)


def _remove(network: fx.GraphModule, norm: Affine) -> bool:
    rename(network, norm.node, norm.source)
    norm.node.replace_all_uses_with(norm.source)
    for node in reversed(norm.nodes):
        node.graph.erase_node(node)
    return True


def _expand(norm: Affine, linear: Any, side: str) -> tuple[Tensor, Tensor]:
    """Return scale and shift for each input or output channel of a linear operation."""
    kind = "features" if isinstance(linear, nn.Linear) else "channels"
    channels = getattr(linear, f"{side}_{kind}")
    return norm.scale.expand(channels), norm.shift.expand(channels)


def _folds_into(network: fx.GraphModule, node: fx.Node, norm: Affine) -> bool:
    """Return whether a norm folds into a neighbouring node whose weights nothing else uses."""
    linear, follows = target_of(network, node), node in norm.node.users
    read = {str(other.target).rpartition(".")[0] for other in node.graph.find_nodes(op="get_attr")}
    if type(linear) not in _OUTPUT_AXES or node.target in read or not norm.by_channel:
        return False
    if isinstance(linear, nn.Linear):
        side = linear.in_features if follows else linear.out_features
        channels = len(norm.scale)
        return norm.rank == 2 or channels == 1 or (norm.rank is None and side == channels)
    transposed = _OUTPUT_AXES[type(linear)] != 1
    padded = linear.padding != "valid" and any(linear.padding) and linear.padding_mode == "zeros"
    # at padded zeros the shift of the inputs is missing
    suits = norm.rank in (None, linear.weight.dim())
    return suits and not (follows and (transposed or padded))


def _scaled_weight(linear: Any, factor: Tensor, axis: int) -> Tensor:
    """Scale a weight, seen as (groups, outputs, inputs, taps) or transposed, along an axis."""
    weight, groups = linear.weight.to(factor), getattr(linear, "groups", 1)
    rows = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return torch.mul(rows, factor.view([groups, *(-1 if dim == axis else 1 for dim in (1, 2, 3))]))


def _update_weights(
    linear: Any, scale: Tensor, axis: int, shift: Tensor, gain: Tensor | float = 1.0
) -> None:
    """Scale the weight and shift the bias of an operation, rounded once."""
    old_weight = linear.weight
    bias = shift if linear.bias is None else linear.bias.to(shift) * gain + shift
    linear.weight = nn.Parameter(
        _scaled_weight(linear, scale, axis).view_as(old_weight).to(old_weight)
    )
    linear.bias = nn.Parameter(bias.to(old_weight))
