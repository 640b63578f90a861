"""Mark the coefficients of a graph, which are held at the image.

A coefficient is what activations are multiplied or divided by: attention weights, gates, and what
is computed from statistics. `hold` marks where one enters. What leads to marks only carries no
streams, and needs no rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from dmn.graph.nodes import is_call, operation_name, target_of
from dmn.nn.attention import AttentionOutput
from dmn.rules.attention import Attention
from dmn.rules.base import Rule
from dmn.rules.local import Local, hold
from dmn.rules.names import all_spellings
from dmn.rules.operations import Operation
from dmn.rules.table import find_rule, streams_read, takes_streams

Place = int | str  # of an argument: its position or its name
HELD = "held"  # key in a mark's meta: the name of the coefficient

_ATTENTION = all_spellings("MultiheadAttention scaled_dot_product_attention") | {AttentionOutput}
_PRODUCTS = all_spellings("mul multiply matmul bmm einsum")
_QUOTIENTS = all_spellings("div divide true_divide truediv")
_GATES = all_spellings("Sigmoid sigmoid Hardsigmoid hardsigmoid Tanh tanh ReLU6 relu6") | (
    all_spellings("Hardtanh hardtanh clamp")
)
_VALUES = {2, "value"}  # the arguments of attention that are not held


def hold_coefficients(network: fx.GraphModule) -> None:
    """Mark the coefficients of a traced network, in place.

    They are the query, the key and the masks of attention; denominators; and of the two factors of
    a product the one that has no rule, or that comes from a bounded activation such as a sigmoid.
    Two factors of the same kind are left to the rule of products.

    Args:
        network: A traced network, as `dmn.graph.trace` returns it.
    """
    marker = _Marker(network)
    for node in list(network.graph.nodes):
        marker.visit(node)


class _Marker:
    """Marks the coefficients of a graph; nodes are visited in order.

    Attributes:
        streams: Nodes with streams so far.
        without_rule: Those without a rule, and what is computed from them.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        self.network = network
        self.streams: set[fx.Node] = set()
        self.without_rule: set[fx.Node] = set()

    def visit(self, node: fx.Node) -> None:
        """Mark the coefficients of one operation."""
        if node.op == "placeholder" and not node.args:
            self.streams.add(node)
        if not takes_streams(node, self.streams):
            return
        for place, what in list(self._coefficients(node)):
            self._mark(node, place, what)
        inputs = self.streams.intersection(node.all_input_nodes)
        if not inputs:
            return
        if inputs & self.without_rule or isinstance(self._rule(node), str):
            self.without_rule.add(node)
        self.streams.add(node)

    def _coefficients(self, node: fx.Node) -> Iterator[tuple[Place, str]]:
        """Yield the places of the arguments with streams that are coefficients, and their names."""
        arguments: dict[Place, Any] = dict(enumerate(node.args))
        arguments.update(node.kwargs)
        places = [
            place
            for place, argument in arguments.items()
            if isinstance(argument, fx.Node) and argument in self.streams
        ]
        if self._calls(node, _ATTENTION):
            yield from ((place, Attention.holds) for place in places if place not in _VALUES)
        elif self._calls(node, _QUOTIENTS) and len(places) == 2:
            yield places[1], "the denominator"
        elif self._calls(node, _PRODUCTS) and len(places) == 2:
            sources = {place: self._source(arguments[place]) for place in places}
            found = [(place, source) for place, source in sources.items() if source is not None]
            if len(found) == 1:
                ((place, source),) = found
                yield place, operation_name(self.network, source)

    def _source(self, factor: fx.Node) -> fx.Node | None:
        """Return what makes a factor a coefficient; None if it is none.

        This is an operation without a rule, or a gate that the factor comes from by moves, sums and
        scaling.
        """
        node = factor
        if factor in self.without_rule:
            while not isinstance(self._rule(node), str):
                node = next(each for each in node.all_input_nodes if each in self.without_rule)
            return node
        while not self._calls(node, _GATES):
            inputs = streams_read(node, self.streams)
            rule = self._rule(node) if len(inputs) == 1 and node.op != "placeholder" else ""
            if isinstance(rule, (str, Local)) or rule.weighted or rule.nonlinear:
                return None
            (node,) = inputs
        return node

    def _mark(self, node: fx.Node, place: Place, what: str) -> None:
        source: Any = node.args[place] if isinstance(place, int) else node.kwargs[place]
        with self.network.graph.inserting_before(node):
            held = self.network.graph.call_function(hold, (source,))
        held.meta[HELD] = what
        if isinstance(place, int):
            node.update_arg(place, held)
        else:
            node.update_kwarg(place, held)

    def _rule(self, node: fx.Node) -> Rule | str:
        target = target_of(self.network, node)
        streams = frozenset(self.streams)
        return find_rule(Operation(target, node.args, node.kwargs, streams), local=True)

    def _calls(self, node: fx.Node, targets: frozenset[Any]) -> bool:
        return is_call(self.network, node, targets)
