"""One operation of a graph, bound to its arguments, and its transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.fx.node import map_aggregate

from dmn.rules.scaled import Scaled


@dataclass(frozen=True)
class Slot:
    """The place of a stream among the arguments."""

    index: int


class Call:
    """An operation with its arguments, except for the streams, which each call supplies.

    Attributes:
        module: The module that is called; None for a function or a method.
        shapes: Shapes of the input streams.
        dtypes: Their types.
        u: The original activations, the inputs; set only where relevance is rebalanced, and where
            coefficients are held.
        out: The original activation, the output; set where max pooling needs it.
        s: The sum stream of the output, before recentring; likewise.
        s_in: The sum stream of the input; set only where relevance is rebalanced.
        affine: Scale and shift of each channel, once they are computed.
        held: The coefficients that are held at the image, once they are computed.
        share: What relevance is multiplied by at a ReLU; see `dmn.split.relevance.relu_share`.
        out_shape: Shape of the output.
    """

    def __init__(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        values: dict[fx.Node, Any],
        streams: Sequence[fx.Node],
    ) -> None:
        self.module = target if isinstance(target, nn.Module) else None
        self.function: Callable[..., Any] = _method(target) if isinstance(target, str) else target
        self.slots: list[fx.Node] = []

        def bind(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            if argument not in streams:
                return values[argument]
            self.slots.append(argument)
            return Slot(len(self.slots) - 1)

        self.args = map_aggregate(args, bind)
        self.kwargs = map_aggregate(kwargs, bind)
        self.shapes = [values[node].shape for node in self.slots]
        self.dtypes = [values[node].dtype for node in self.slots]
        self._edges: tuple[GradientEdge, list[GradientEdge]] | None = None
        self.u: list[Tensor] = []
        self.out: Tensor
        self.s: Scaled
        self.s_in: Scaled
        self.k: float
        self.share: Tensor
        self.affine: tuple[Tensor, Tensor] | None = None
        self.held: Any = None
        self.out_shape: torch.Size

    @property
    def recorded(self) -> bool:
        """Whether `record` was called."""
        return self._edges is not None

    def __call__(self, *streams: Tensor) -> Tensor:
        """Run the operation on other streams."""
        return self.run(self.function, streams)

    def run(self, function: Callable[..., Any], streams: Sequence[Tensor]) -> Tensor:
        """Call a function with this operation's arguments."""

        def fill(argument: Any) -> Any:
            return streams[argument.index] if isinstance(argument, Slot) else argument

        result: Tensor = function(
            *map_aggregate(self.args, fill), **map_aggregate(self.kwargs, fill)
        )
        return result

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """Return an attribute of a module, or an argument of a function."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return self.argument(name, position, default)

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """Return an argument of this call."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def with_magnitudes(self) -> Call:
        """Return this call with the absolute values of its arguments, except for the streams."""
        result = copy(self)
        result.args = map_aggregate(self.args, _magnitude)
        result.kwargs = map_aggregate(self.kwargs, _magnitude)
        return result

    def record(self, streams: Sequence[Tensor]) -> Tensor:
        """Run the operation on streams and record it for `vjp`; returns a tensor without graph."""
        inputs, out = _cut_off(self, streams)
        self._edges = get_gradient_edge(out), [get_gradient_edge(cut) for cut in inputs]
        return out.detach()

    def vjp(self, sensitivity: Tensor) -> list[Tensor]:
        """Propagate a sensitivity back by the derivative at the recorded streams, by autograd."""
        assert self._edges is not None, "recorded before it is pulled back"
        return self._pull(*self._edges, sensitivity)

    def transposed(self, linear: Callable[..., Tensor], sensitivity: Tensor) -> list[Tensor]:
        """Propagate a sensitivity back by a function that is linear in the streams."""
        zeros = [sensitivity.new_zeros(()).expand(shape) for shape in self.shapes]
        inputs, out = _cut_off(linear, zeros)
        edges = [get_gradient_edge(cut) for cut in inputs]
        return self._pull(get_gradient_edge(out), edges, sensitivity)

    def _pull(
        self, out: GradientEdge, inputs: list[GradientEdge], sensitivity: Tensor
    ) -> list[Tensor]:
        """Go back by autograd; a stream of which only the shape is used gets zeros."""
        pulled = torch.autograd.grad(
            [out],
            inputs,
            [sensitivity],
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        return [
            sensitivity.new_zeros(shape) if gradient is None else gradient
            for gradient, shape in zip(pulled, self.shapes, strict=True)
        ]


class _Cut(torch.autograd.Function):
    """Start a graph at a tensor without holding on to the tensor, as a leaf would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *sensitivities: Tensor) -> Any:
        return None, None


def _cut_off(
    function: Callable[..., Tensor], streams: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    with torch.enable_grad():
        start = torch.zeros((), requires_grad=True)
        inputs: list[Tensor] = [_Cut.apply(x.detach(), start) for x in streams]
        return inputs, function(*inputs)


def _magnitude(argument: Any) -> Any:
    number = isinstance(argument, (Tensor, int, float)) and not isinstance(argument, bool)
    return abs(argument) if number else argument


def _method(name: str) -> Callable[..., Any]:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    return call
