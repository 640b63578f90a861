"""Rewrite networks so that the hooks of other libraries see the modules their rules are for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dmn.canonize import hookable
from dmn.canonize.affine import Affine, ScaleShift, find_affine
from dmn.graph import Unsupported
from dmn.graph.depth import path_counts
from dmn.graph.trace import describe, target_of, unsupported
from dmn.nn import Add, ConvexConcave
from dmn.nn.layers import signs
from dmn.rules import Activation, Rule
from dmn.rules.table import find_rules


class Negate(nn.Module):
    """The negative of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Return -x."""
        return -x


class Apply(nn.Module):
    """A function or module of one tensor, as a module with a class that rules can match.

    Args:
        function: Takes a tensor and options, such as `torch.mean`.
        options: Its other positional arguments.
        keywords: Its keyword arguments.
    """

    def __init__(
        self, function: Callable[..., Tensor], options: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        super().__init__()
        self.function, self.options, self.keywords = function, options, keywords

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's value for x."""
        return self.function(x, *self.options, **self.keywords)


class Average(Apply):
    """A function that averages or sums."""


class Elementwise(Apply):
    """An elementwise function."""


class StackedSum(nn.Module):
    """The sum of two tensors as the sum over a stack, as hooks need a single input.

    Args:
        total: Module that sums over the last dimension.
    """

    def __init__(self, total: nn.Module) -> None:
        super().__init__()
        self.total = total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x + y."""
        size = (x + y).shape
        total: Tensor = self.total(torch.stack([x.expand(size), y.expand(size)], dim=-1))
        return total


class BothReLUs(nn.Module):
    """`ConvexConcave` with a ReLU module, for which libraries have a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, z: Tensor) -> Tensor:
        """Return relu(z) in the first half of the channels, -relu(-z) in the second."""
        sign = signs(z.new_ones(z.shape[1], *[1] * (z.dim() - 2)))
        result: Tensor = sign * self.relu(sign * z)
        return result


class WindowsApart(nn.Module):
    """Max pooling after its windows are copied side by side, so that they share no pixel.

    Args:
        pool: Pooling with any kernel, stride, padding and dilation. A signal is pooled as an image
            of one row.
    """

    def __init__(self, pool: nn.MaxPool1d | nn.MaxPool2d) -> None:
        super().__init__()
        self.one_row = isinstance(pool, nn.MaxPool1d)
        self.axes = [(1, 1, 0, 1), *_windows(pool)] if self.one_row else _windows(pool)
        self.ceil_mode = pool.ceil_mode
        self.pool = nn.MaxPool2d(tuple(kernel for kernel, *_ in self.axes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima of the windows."""
        if self.one_row:
            return self._pooled(x.unsqueeze(2)).squeeze(2)
        return self._pooled(x)

    def _pooled(self, x: Tensor) -> Tensor:
        sides, pads = [], []
        for size, (k, stride, padding, dilation) in zip(x.shape[-2:], self.axes, strict=True):
            reach = dilation * (k - 1) + 1
            room = size + 2 * padding - reach
            side = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            side -= (side - 1) * stride >= size + padding  # no window starts in the padding
            sides.append(side)
            pads.append((padding, (side - 1) * stride + reach - size - padding))
        lowest = torch.finfo(x.dtype).min  # finite: rules subtract
        padded = F.pad(x, (*pads[1], *pads[0]), value=lowest)
        kernel, strides, _, dilations = zip(*self.axes, strict=True)
        windows = F.unfold(padded, kernel, dilations, 0, strides)
        grid = windows.view(len(x), x.shape[1], *kernel, *sides).permute(0, 1, 4, 2, 5, 3)
        result: Tensor = self.pool(grid.flatten(4, 5).flatten(2, 3))
        return result


def windows_overlap(pool: Any) -> bool:
    """Return whether windows of max pooling, over any number of axes, share pixels."""
    return any(stride < dilation * (k - 1) + 1 for k, stride, _, dilation in _windows(pool))


def _windows(pool: Any) -> list[tuple[int, int, int, int]]:
    """Return kernel, stride, padding and dilation for each axis."""
    axes = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
    count = next(count for kind, count in axes.items() if isinstance(pool, kind))
    options = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    per_axis = ((value,) * count if isinstance(value, int) else tuple(value) for value in options)
    return list(zip(*per_axis, strict=True))


OWN = (Negate, Average, Elementwise, ScaleShift, StackedSum, BothReLUs, WindowsApart)
"""Modules of this package for which the rules of other libraries are defined."""


def for_tensor_hooks(
    model: nn.Module, example: Tensor | None = None, rescale: bool = False
) -> fx.GraphModule:
    """Return a copy in which every module has its own input tensor.

    Captum hooks the input tensor of a module. If other modules share the tensor, the rule is
    applied to them too; if a hooked module returned the tensor, that module does not see the rule.

    Args:
        model: As for `hookable`.
        example: As for `hookable`.
        rescale: Write modules in a form that captum's DeepLift has rules for: `ConvexConcave` with
            ReLU, and max pooling without overlapping windows, of which captum's rule keeps only
            one if they share a maximum.
    """
    network = hookable(model, example)
    for node in network.graph.find_nodes(op="call_module"):
        with network.graph.inserting_before(node):
            node.args = tuple(network.graph.call_method("clone", (arg,)) for arg in node.args)
        module = network.get_submodule(str(node.target))
        if rescale and isinstance(module, ConvexConcave):
            network.set_submodule(str(node.target), BothReLUs())
        if rescale and isinstance(module, nn.MaxPool1d | nn.MaxPool2d) and windows_overlap(module):
            network.set_submodule(str(node.target), WindowsApart(module))
    network.recompile()
    return network


def for_rules(
    network: fx.GraphModule, total: Callable[[], nn.Module], kinds: tuple[Any, ...]
) -> fx.GraphModule:
    """Return a hookable network with a module for every operation that does more than move values.

    Args:
        network: Returned by `hookable` or `canonize`.
        total: Returns a module that sums over the last dimension.
        kinds: Types of modules that are not changed.

    Returns:
        A copy in which a - b is a + `Negate`(b), the sum of two tensors a `StackedSum`, constant
        scales and shifts are `ScaleShift`, averages `Average`, other activations `Elementwise`.
    """
    network = hookable(network)
    images = find_rules(network).keys() | {*network.graph.find_nodes(op="placeholder")}
    for node in list(network.graph.nodes):
        if node.op in ("call_function", "call_method") and node.target in _SIGNS:
            _SIGNS[node.target](network, node, images)
    for affine in find_affine(network):
        if not all(isinstance(target_of(network, node), kinds) for node in affine.nodes):
            _scale_and_shift(network, affine)
    network = hookable(network)
    for node, rule in find_rules(network).items():
        target = target_of(network, node)
        if isinstance(target, Add):
            network.set_submodule(str(node.target), StackedSum(total()))
        elif not isinstance(target, (*kinds, *OWN)):
            _wrap(network, node, rule)
    network.recompile()
    return network


def refuse_without_rule(
    network: fx.GraphModule, has_rule: Callable[[Any, Rule | str], bool], method: str
) -> None:
    """Refuse a network with operations that a method would ignore silently.

    Args:
        network: Returned by `hookable` or `canonize`.
        has_rule: Returns whether the method has a rule, given the target of a node, and the node's
            split rule or the reason why it has none.
        method: Name of the method.

    Raises:
        UnsupportedError: if an operation on the image has no rule; lists all such operations.
    """
    refused = [
        Unsupported(
            describe(network, node), rule if isinstance(rule, str) else "this method has no rule"
        )
        for node, rule in find_rules(network).items()
        if not has_rule(target_of(network, node), rule)
    ]
    if refused:
        raise unsupported(refused, f"explain {type(network).__name__} by {method}")


def relative_depths(network: fx.GraphModule, kind: type[nn.Module]) -> dict[str, float]:
    """Return how deep modules lie, from 0 for the first to 1 for the last.

    The depth of a module is the number of modules of its kind on the longest path from the image.

    Args:
        network: A graph that calls each module once.
        kind: The type of the modules.

    Returns:
        The depth by the module's path, as a share of the way from the first to the last; 0 if all
        are first.
    """
    nodes = network.graph.nodes
    counts = path_counts(nodes, lambda node: isinstance(target_of(network, node), kind))
    depths = {
        str(node.target): counts[node] - 1
        for node in nodes
        if isinstance(target_of(network, node), kind)
    }
    last = max(depths.values(), default=0) or 1
    return {path: depth / last for path, depth in depths.items()}


def _call_module(network: fx.GraphModule, node: fx.Node, module: nn.Module, x: Any) -> None:
    path = f"rewritten_{node.name}"
    network.add_submodule(path, module)
    node.op, node.target, node.args, node.kwargs = "call_module", path, (x,), {}


def _subtraction(network: fx.GraphModule, node: fx.Node, images: Container[fx.Node]) -> None:
    if len(node.args) == 2 and not node.kwargs and node.args[1] in images:
        left, right = node.args
        with network.graph.inserting_before(node):
            negative = network.graph.call_function(operator.neg, (right,))
        _call_module(network, negative, Negate(), right)
        node.op, node.target, node.args = "call_function", operator.add, (left, negative)


def _negation(network: fx.GraphModule, node: fx.Node, images: Container[fx.Node]) -> None:
    if node.all_input_nodes[0] in images:
        _call_module(network, node, Negate(), node.all_input_nodes[0])


_SIGNS: dict[Any, Callable[[fx.GraphModule, fx.Node, Container[fx.Node]], None]] = {
    **dict.fromkeys((operator.sub, torch.sub, "sub"), _subtraction),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), _negation),
}


def _scale_and_shift(network: fx.GraphModule, affine: Affine) -> None:
    *before, last = affine.nodes
    tensors = (*network.parameters(), *network.buffers(), torch.empty(()))
    reference = next(tensor for tensor in tensors if tensor.is_floating_point())
    _call_module(network, last, ScaleShift(affine).to(reference), affine.source)
    for node in reversed(before):
        network.graph.erase_node(node)


def _wrap(network: fx.GraphModule, node: fx.Node, rule: Rule | str) -> None:
    """Replace a call that averages or acts elementwise by a module; leave other calls."""
    wrapper = (
        Elementwise if isinstance(rule, Activation) else Average if type(rule) is Rule else None
    )
    options = {key: value for key, value in node.kwargs.items() if key != "input"}
    x, *others = node.args or node.all_input_nodes
    if wrapper and not any(isinstance(value, fx.Node) for value in (*others, *options.values())):
        target: Any = target_of(network, node)
        function = getattr(Tensor, target) if isinstance(target, str) else target
        _call_module(network, node, wrapper(function, tuple(others), options), x)
