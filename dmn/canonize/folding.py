"""The same network without BatchNorm, with a module for each call, ReLU and residual addition.

Attribution rules are defined for single operations, and their maps depend on how a network is
written: a convolution and a BatchNorm get another map than the one convolution that does both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmn.canonize.affine import Affine, find_affine
from dmn.canonize.modules import Layers, copy_shared_modules, free_path, replace_operations
from dmn.canonize.moves import Moves, RecordedShapes
from dmn.canonize.norms import fold_norms
from dmn.canonize.report import FoldingReport, set_report
from dmn.canonize.scales import fold_scale, remove
from dmn.canonize.weights import (
    OUTPUT_AXES,
    fold_inputs,
    fold_outputs,
    is_read,
    is_transposed,
    pads_zeros,
    tensor_users,
)
from dmn.graph.equal import require_equal
from dmn.graph.trace import Unsupported, describe, target_of, trace, unsupported
from dmn.graph.wrappers import unwrap
from dmn.rules.table import find_rules, is_known


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
    convolution or a diagonal `nn.Linear`. Layer scales and other scales by constants are folded
    likewise, where exact.

    LayerNorm, RMSNorm, GroupNorm and InstanceNorm, which use the statistics of each image, keep
    these; their weight and bias are folded into all that takes their results, if that is linear
    layers, convolutions, and the projections of attention. `folding_report` says what was folded
    and what was left, with the reasons.

    Args:
        model: Takes one tensor and returns one. It is not changed.
        example: Images (B, C, H, W), to trace a forward that branches on shapes, to distinguish
            (B, C) from (B, C, L) in BatchNorm1d and SyncBatchNorm, and to follow channels through
            permutations, slices and averages. Without it, BatchNorm1d next to a Linear of as many
            features is taken to see (B, C), and only norms right before a Linear are folded.

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
    fold: Callable[[fx.GraphModule, Layers], list[Unsupported]],
    job: str,
) -> fx.GraphModule:
    model = unwrap(model)
    network, layers, overwriting = trace(model, is_known, example)
    if example is not None:
        RecordedShapes(network).propagate(example)
    copy_shared_modules(network, layers)
    replace_operations(network, layers)
    if refused := [*overwriting, *fold(network, layers)]:
        raise unsupported(refused, f"{job} {type(model).__name__}")
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()
    if example is not None:
        require_equal(network, model, example)
    return network.eval().requires_grad_(False)


def _fold(network: fx.GraphModule, layers: Layers) -> list[Unsupported]:
    """Fold norms and constant scales; returns every BatchNorm that cannot be folded, and why."""
    refused = [
        Unsupported(describe(network, node), rule)
        for node, rule in find_rules(network).items()
        if isinstance(rule, str) and _is_norm(target_of(network, node))
    ]
    affines = find_affine(network)
    places = {affine.node: _place(network, affine) for affine in affines}
    kept = {affine.node for affine in affines if _is_complement(affine)}
    affines = [affine for affine in affines if affine.node not in kept]
    affines = [affine for affine in affines if not _fold_into_preceding(network, affine)]
    affines = [affine for affine in affines[::-1] if not _fold_into_following(network, affine)]
    replaced, apart = {}, []
    for affine in affines[::-1]:
        norm = any(_is_norm(target_of(network, node)) for node in affine.nodes)
        if norm and affine.rank is None:
            needs = "sees (B, C) or (B, C, L); to tell, pass `example`"
            refused.append(Unsupported(describe(network, affine.node), needs))
        elif affine.rank and affine.by_channel and (norm or _is_like_norm(affine)):
            if _replace_by_linear(network, layers, affine, affine.rank):
                replaced[affine.node] = places[affine.node]
        else:
            apart.append(affine)
    moves = Moves(network)
    left = [affine for affine in apart if not fold_scale(moves, layers, affine)]
    kept |= {*replaced, *(affine.node for affine in left)}
    folded = [place for node, place in places.items() if node not in kept]
    left_scales = [
        Unsupported(places[affine.node], "no linear operation next to it can do it")
        for affine in left
        if _is_by_axis(affine.scale)
    ]
    norms = fold_norms(moves, layers)
    report = FoldingReport(
        (*folded, *norms.folded), tuple(replaced.values()), (*left_scales, *norms.left)
    )
    set_report(network, report)
    network.graph.eliminate_dead_code()
    return refused


def _place(network: fx.GraphModule, affine: Affine) -> str:
    """Return the module path of a scale and shift, and what it is."""
    norms = (node for node in affine.nodes if _is_norm(target_of(network, node)))
    if norm := next(norms, None):
        return describe(network, norm)
    return describe(network, affine.node, "scale")


def _is_norm(target: Any) -> bool:
    return isinstance(target, _BatchNorm) or target in (F.batch_norm, torch.batch_norm)


def _is_complement(affine: Affine) -> bool:
    """Return whether it is like 1 - x, which is not a norm: its output has its own relevance."""
    return affine.scale.numel() == 1 and bool(affine.scale < 0)


def _is_by_axis(scale: Tensor) -> bool:
    """Return whether there is a factor for each place of one axis, as in a layer scale."""
    return sum(size > 1 for size in scale.shape) == 1 and bool((scale != 1).any())


def _is_like_norm(affine: Affine) -> bool:
    """Return whether it both scales and shifts each channel; either alone conserves relevance."""
    scales_and_shifts = bool((affine.scale != 1).any() and affine.shift.any())
    return scales_and_shifts and len(affine.scale) > 1


def _fold_into_preceding(network: fx.GraphModule, norm: Affine) -> bool:
    if len(tensor_users(norm.source)) > 1 or not _folds_into(network, norm.source, norm):
        return False
    linear = target_of(network, norm.source)
    fold_outputs(linear, *_expand(norm, linear, "out"))
    return remove(network, norm)


def _fold_into_following(network: fx.GraphModule, norm: Affine) -> bool:
    users = tensor_users(norm.node)
    if not all(_folds_into(network, user, norm) for user in users):
        return False
    for module in (target_of(network, user) for user in users):
        fold_inputs(module, *_expand(norm, module, "in"))
    return remove(network, norm)


def _replace_by_linear(network: fx.GraphModule, layers: Layers, norm: Affine, rank: int) -> bool:
    """Write a norm as a linear operation; returns whether it became one of its own."""
    if _fold_into_preceding(network, norm):  # what precedes it may have become linear by now
        return False
    path, channels = str(norm.node.target), len(norm.scale)
    if norm.node.op != "call_module":
        path = free_path(network, layers, norm.node, norm.node.name)
    kind: Any = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[rank]
    options = {} if rank == 2 else {"kernel_size": 1, "groups": channels}
    unit = kind(channels, channels, bias=False, device="meta", **options)  # draws no numbers
    identity = torch.eye(channels) if rank == 2 else torch.ones(unit.weight.shape)
    tensors = (*network.parameters(), *network.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), identity)
    unit.weight = nn.Parameter(identity.to(like))
    fold_outputs(unit, norm.scale, norm.shift)
    network.add_submodule(path, unit)
    node = norm.node
    node.op, node.target, node.args, node.kwargs = "call_module", path, (norm.source,), {}
    for previous in reversed(norm.nodes[:-1]):
        node.graph.erase_node(previous)
    return True


def _expand(norm: Affine, linear: Any, side: str) -> tuple[Tensor, Tensor]:
    """Return scale and shift for each input or output channel of a linear operation."""
    kind = "features" if isinstance(linear, nn.Linear) else "channels"
    channels = getattr(linear, f"{side}_{kind}")
    return norm.scale.expand(channels), norm.shift.expand(channels)


def _folds_into(network: fx.GraphModule, node: fx.Node, norm: Affine) -> bool:
    """Return whether a norm folds into a neighbouring node whose weights nothing else uses."""
    linear, follows = target_of(network, node), node in norm.node.users
    if type(linear) not in OUTPUT_AXES or is_read(network, node) or not norm.by_channel:
        return False
    if isinstance(linear, nn.Linear):
        side = linear.in_features if follows else linear.out_features
        channels = len(norm.scale)
        return norm.rank == 2 or channels == 1 or (norm.rank is None and side == channels)
    suits = norm.rank in (None, linear.weight.dim())
    return suits and not (follows and (is_transposed(linear) or pads_zeros(linear)))
