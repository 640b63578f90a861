"""Constant scales and shifts, however they are written: norms, Normalize, arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import transforms
from torchvision.transforms import v2

from dmn.canonize.weights import tensor_users
from dmn.graph.trace import target_of
from dmn.graph.tracer import is_number
from dmn.nn import Add
from dmn.rules.base import Activation
from dmn.rules.linear import ChannelAffine
from dmn.rules.pools import WinnerPool
from dmn.rules.table import find_rules

_ScaleShift = tuple[Any, Any]
_CONVOLUTIONS_OF_SIGNALS = ("Conv1d", "conv1d", "ConvTranspose1d", "conv_transpose1d")
_RULES_THAT_KEEP_RANK = (Activation, ChannelAffine, WinnerPool)
_THAT_KEEP_RANK = (nn.Identity, nn.Dropout, nn.AvgPool1d, nn.AdaptiveAvgPool1d, Add)


class Affine(NamedTuple):
    """x * scale + shift by constants, in float64.

    Attributes:
        nodes: The operations that do it, in order.
        position: Position of x among the inputs of the first operation.
        scale: One number, one per channel (C,), or any shape that broadcasts.
        shift: As scale.
        by_channel: Whether both have one number in all or one per channel.
        rank: Rank of x; None if unknown.
    """

    nodes: tuple[fx.Node, ...]
    position: int
    scale: Tensor
    shift: Tensor
    by_channel: bool
    rank: int | None

    @property
    def node(self) -> fx.Node:
        """The operation that returns the result."""
        return self.nodes[-1]

    @property
    def source(self) -> fx.Node:
        """The node of x, in the current graph."""
        return self.nodes[0].all_input_nodes[self.position]

    def broadcast(self, dims: int) -> tuple[Tensor, Tensor]:
        """Return scale and shift in one shape that broadcasts to x of so many axes."""
        scale, shift = self.scale, self.shift
        if self.by_channel:
            shapes = ([-1, *[1] * (dims - 2)] if len(value) > 1 else [] for value in (scale, shift))
            scale, shift = map(torch.reshape, (scale, shift), shapes)
        return scale + torch.zeros_like(shift), shift + torch.zeros_like(scale)

    def after(self, first: Affine) -> Affine | None:
        """Return the composition, first `first`; None if it is not one number per channel."""
        ranks = {first.rank, self.rank} - {None}
        if not (first.by_channel and self.by_channel and len(ranks) <= 1):
            return None
        scale, shift = first.scale * self.scale, first.shift * self.scale + self.shift
        rank = next(iter(ranks), None)
        return Affine((*first.nodes, *self.nodes), first.position, scale, shift, True, rank)


class ScaleShift(nn.Module):
    """x * scale + shift, as a module.

    Args:
        affine: The scale and the shift.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.by_channel = affine.by_channel
        self.register_buffer("scale", affine.scale)
        self.register_buffer("shift", affine.shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return x * scale + shift."""
        if not self.by_channel:
            return torch.addcmul(self.shift, x, self.scale)
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


def find_affine(network: fx.GraphModule) -> list[Affine]:
    """Find the longest chains of operations that only scale and shift by constants.

    Args:
        network: In eval mode. Norms without running statistics are left out.
    """
    constants, ranks = constant_values(network), _ranks(network)
    numbers: set[fx.Node] = set()
    chains: dict[fx.Node, Affine] = {}  # by the node that returns the result
    for node in network.graph.nodes:
        if is_number(node, numbers):
            numbers.add(node)
        if node in constants or node in numbers or not node.op.startswith("call"):
            continue
        if (affine := _read(network, node, constants, ranks)) is None:
            continue
        preceding = chains.get(affine.source)
        combined = (
            affine.after(preceding) if preceding and len(tensor_users(affine.source)) == 1 else None
        )
        if preceding and combined:
            del chains[preceding.node]
        chains[node] = combined or affine
    return list(chains.values())


def constant_values(network: fx.GraphModule) -> dict[fx.Node, Any]:
    """Return the value of each node that depends on parameters and buffers only."""
    values: dict[fx.Node, Any] = {}
    for node in network.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(network)
        elif node.op in ("call_function", "call_method") and inputs and values.keys() >= {*inputs}:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                values[node] = node.target(*args, **kwargs)
    return values


def _ranks(network: fx.GraphModule) -> dict[fx.Node, int]:
    """Return the rank of tensors: from an example, or from an operation such as Conv2d.

    Of operations on signals only convolutions tell: others take (B, C) too, as (C, L).
    """
    shapes = ((node, shape_of(node)) for node in network.graph.nodes)
    ranks = {node: len(shape) for node, shape in shapes if shape}
    for node, rule in find_rules(network).items():
        target, source = target_of(network, node), node.all_input_nodes[0]
        name = str(getattr(target, "__name__", type(target).__name__))
        keeps = isinstance(rule, _RULES_THAT_KEEP_RANK) or isinstance(target, _THAT_KEEP_RANK)
        if name.endswith(("2d", "3d")) or name in _CONVOLUTIONS_OF_SIGNALS:
            ranks.setdefault(node, 2 + int(name[-2]))
        elif keeps and source in ranks:
            ranks.setdefault(node, ranks[source])
    return ranks


def _read(
    network: fx.GraphModule,
    node: fx.Node,
    constants: dict[fx.Node, Any],
    ranks: dict[fx.Node, int],
) -> Affine | None:
    """Read one operation, if it scales and shifts by constants."""
    target = target_of(network, node)
    images = [i for i, source in enumerate(node.all_input_nodes) if source not in constants]
    if len(images) != 1:
        return None
    source = node.all_input_nodes[images[0]]
    source_rank = ranks.get(source)
    for kinds, reader, rank in _MODULES:
        if isinstance(target, kinds):
            scale_shift = reader(target)
            return scale_shift and Affine(
                (node,), images[0], *scale_shift, True, rank or source_rank
            )
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda node: constants.get(node, node))
    if target is F.batch_norm:
        scale_shift = _function_norm(args, kwargs)
        return scale_shift and Affine(
            (node,), images[0], *scale_shift, True, _rank_of_owner(node) or source_rank
        )
    scale_shift = _arithmetic(target, args, kwargs)
    return scale_shift and _by_channel(node, images[0], *scale_shift, source_rank)


def _norm(module: Any) -> _ScaleShift | None:
    if module.running_mean is None:
        return None
    norm = deepcopy(module).to("cpu", torch.float64)
    numbers = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return _statistics(*numbers, eps=norm.eps)


def _statistics(mean: Any, variance: Any, weight: Any, bias: Any, *, eps: float) -> _ScaleShift:
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale


def _normalize(module: Any) -> _ScaleShift:
    mean, std = (torch.as_tensor(value, dtype=torch.float64) for value in (module.mean, module.std))
    return 1 / std, -mean / std


_RANKS = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}  # of their inputs; other norms take several
_MODULES: tuple[tuple[Any, Callable[[Any], _ScaleShift | None], int | None], ...] = (
    *((norm, _norm, rank) for norm, rank in _RANKS.items()),
    (_BatchNorm, _norm, None),
    ((transforms.Normalize, v2.Normalize), _normalize, 4),
)
_STATISTICS = ("running_mean", "running_var", "weight", "bias")  # arguments after the first
_OPTIONS = ("training", "momentum", "eps")


def _function_norm(args: tuple[Any, ...], kwargs: Any) -> _ScaleShift | None:
    """Read a batch norm that is a function of its statistics."""
    arguments = {**dict(zip((*_STATISTICS, *_OPTIONS), args[1:], strict=False)), **kwargs}
    numbers = {name: arguments.get(name) for name in _STATISTICS}
    constant = not any(isinstance(number, fx.Node) for number in numbers.values())
    if arguments.get("training") or numbers["running_mean"] is None or not constant:
        return None
    exact = (None if value is None else _double(value) for value in numbers.values())
    return _statistics(*exact, eps=arguments.get("eps", 1e-5))


def _spellings(name: str, form: Callable[..., _ScaleShift | None]) -> Iterator[tuple[Any, Any]]:
    for target in (getattr(operator, name, None), getattr(torch, name, None), name):
        if target is not None:
            yield target, form


# From the constant, and whether it comes first.
_FORMS: dict[Any, Callable[[Tensor, bool], _ScaleShift | None]] = {
    target: form
    for names, form in (
        ("add", lambda c, first: (1, c)),
        ("mul multiply", lambda c, first: (c, 0)),
        ("sub subtract", lambda c, first: (-1, c) if first else (1, -c)),
        ("rsub", lambda c, first: (1, -c) if first else (-1, c)),
        ("div divide truediv true_divide", lambda c, first: None if first else (1 / c, 0)),
    )
    for name in names.split()
    for target, form in _spellings(name, form)
}


def _arithmetic(target: Any, args: tuple[Any, ...], kwargs: Any) -> _ScaleShift | None:
    """Read a sum, difference, product or quotient of an image and a constant."""
    operands = [*args, *(value for key, value in kwargs.items() if key in ("input", "other"))]
    if target not in _FORMS or len(operands) != 2 or len(operands) < len(args) + len(kwargs):
        return None
    first = not isinstance(operands[0], fx.Node)
    constant = operands[0 if first else 1]
    if not isinstance(constant, (int, float, Tensor)):
        return None
    return _FORMS[target](_double(constant), first)


def _double(constant: Any) -> Tensor:
    return torch.as_tensor(constant).detach().to("cpu", torch.float64)


def _by_channel(node: fx.Node, position: int, scale: Any, shift: Any, rank: int | None) -> Affine:
    """Distinguish one number per channel, the second axis of x, from other shapes."""
    scale, shift = (torch.as_tensor(value, dtype=torch.float64) for value in (scale, shift))
    shapes = [value.shape for value in (scale, shift) if value.numel() > 1]
    if not shapes:
        return Affine((node,), position, scale.reshape(1), shift.reshape(1), True, rank)
    channels, trailing = max(shapes[0]), len(shapes[0]) - 1 - shapes[0].index(max(shapes[0]))
    sizes = [(channels, *[1] * trailing), (1, channels, *[1] * trailing)]
    # (C,) and (C, 1) may be of other axes, and one channel may become several: x's shape tells
    is_channel_axis = trailing > 1 if rank is None else rank == 2 + trailing
    no_broadcast = (shape_of(node.all_input_nodes[position]) or (0, channels))[1] == channels
    if is_channel_axis and no_broadcast and all(shape in sizes for shape in shapes):
        scale, shift = (value.reshape(-1).expand(channels) for value in (scale, shift))
        return Affine((node,), position, scale, shift, True, 2 + trailing)
    return Affine((node,), position, scale, shift, False, rank)


def shape_of(node: fx.Node) -> torch.Size | None:
    """Return the shape of a tensor if an example was given."""
    return getattr(node.meta.get("tensor_meta"), "shape", None)  # of a tuple there is none


def _rank_of_owner(node: fx.Node) -> int | None:
    """Return the rank that the calling module takes, if that module is a norm."""
    owners = [kind for _, kind in node.meta.get("nn_module_stack", {}).values()][-1:]
    kinds = [kind for kind in owners if isinstance(kind, type)]
    return next((_RANKS[norm] for norm in _RANKS for kind in kinds if issubclass(kind, norm)), None)
