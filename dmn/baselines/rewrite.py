"""Networks written so that the hooks of other libraries see what their rules are defined for."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dmn.nn import Add
from dmn.posthoc import hookable
from dmn.posthoc.graph import is_query


class Negate(nn.Module):
    """The negative of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Return -x."""
        return -x


class Average(nn.Module):
    """A function that averages, as a module.

    Args:
        function: Takes a tensor and options, such as `torch.mean`.
        options: What it takes besides.
        named: What it takes by name.
    """

    def __init__(
        self, function: Callable[..., Tensor], options: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        super().__init__()
        self.function, self.options, self.named = function, options, named

    def forward(self, x: Tensor) -> Tensor:
        """Return the averages."""
        return self.function(x, *self.options, **self.named)


class StackedSum(nn.Module):
    """The sum of two tensors, as one of a stack: what is hooked takes one input.

    Args:
        total: Sums over the last dimension.
    """

    def __init__(self, total: nn.Module) -> None:
        super().__init__()
        self.total = total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x + y."""
        size = (x + y).shape
        total: Tensor = self.total(torch.stack([x.expand(size), y.expand(size)], dim=-1))
        return total


class WindowsApart(nn.Module):
    """Max pooling whose windows are laid side by side first, so that they share no pixel.

    Args:
        pool: Of any kernel, stride, padding and dilation.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        of = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        self.axes = tuple(zip(*((v, v) if isinstance(v, int) else v for v in of), strict=True))
        self.ceil_mode = pool.ceil_mode
        self.pool = nn.MaxPool2d(pool.kernel_size)

    @property
    def overlap(self) -> bool:
        """Whether windows share pixels at all."""
        return any(stride < dilation * (k - 1) + 1 for k, stride, _, dilation in self.axes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima of the windows."""
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


def for_tensor_hooks(model: nn.Module, windows_apart: bool = False) -> fx.GraphModule:
    """Write a copy whose every module has an input of its own.

    Captum hooks the tensor that a module takes. Where others take it too they get the module's
    rule as well, and where a hooked module gave it that one does not see the rule.

    Args:
        model: As for `hookable`.
        windows_apart: Lay overlapping windows of max pooling apart; captum's rule of DeepLift keeps
            one of those that share a maximum.
    """
    network = hookable(model)
    for node in network.graph.find_nodes(op="call_module"):
        with network.graph.inserting_before(node):
            node.args = tuple(network.graph.call_method("clone", (arg,)) for arg in node.args)
        module = network.get_submodule(str(node.target))
        if windows_apart and isinstance(module, nn.MaxPool2d):
            apart = WindowsApart(module)
            if apart.overlap:
                network.set_submodule(str(node.target), apart)
    network.recompile()
    return network


def for_rules(network: fx.GraphModule, total: Callable[[], nn.Module]) -> fx.GraphModule:
    """Write a hookable network with differences, negatives and averages as modules too.

    Args:
        network: Of `hookable` or `canonize`.
        total: Makes a module that sums over the last dimension.

    Returns:
        A copy in which a - b is a + `Negate`(b), and the sum of two tensors a `StackedSum`.
    """
    network = hookable(network)
    seen: set[fx.Node] = set()  # what depends on the image
    for node in list(network.graph.nodes):
        if node.op == "placeholder" or (
            not is_query(node) and not seen.isdisjoint(node.all_input_nodes)
        ):
            seen.add(node)
            if node.op in ("call_function", "call_method") and node.target in _REWRITES:
                _REWRITES[node.target](network, node, seen)
    network = hookable(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, Add):
            network.set_submodule(name, StackedSum(total()))
    return network


def _calls(network: fx.GraphModule, node: fx.Node, module: nn.Module, x: Any) -> None:
    path = f"rewritten_{node.name}"
    network.add_submodule(path, module)
    node.op, node.target, node.args, node.kwargs = "call_module", path, (x,), {}


def _subtraction(network: fx.GraphModule, node: fx.Node, seen: set[fx.Node]) -> None:
    if len(node.args) == 2 and not node.kwargs and node.args[1] in seen:
        left, right = node.args
        with network.graph.inserting_before(node):
            negative = network.graph.call_function(operator.neg, (right,))
        _calls(network, negative, Negate(), right)
        node.op, node.target, node.args = "call_function", operator.add, (left, negative)


def _negation(network: fx.GraphModule, node: fx.Node, seen: set[fx.Node]) -> None:
    _calls(network, node, Negate(), node.all_input_nodes[0])


def _average(network: fx.GraphModule, node: fx.Node, seen: set[fx.Node]) -> None:
    function: Any = torch.mean if node.target == "mean" else node.target
    named = {key: value for key, value in node.kwargs.items() if key != "input"}
    x, *options = node.args or node.all_input_nodes
    _calls(network, node, Average(function, tuple(options), named), x)


_REWRITES: dict[Any, Callable[[fx.GraphModule, fx.Node, set[fx.Node]], None]] = {
    **dict.fromkeys((operator.sub, torch.sub, "sub"), _subtraction),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), _negation),
    **dict.fromkeys((F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean"), _average),
}
