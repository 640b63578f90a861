"""Send a box of images through a network, operation by operation."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dmn.certify.interval import Interval
from dmn.certify.rules import FUNCTIONS, Rule, cast, rule_of
from dmn.graph import Unsupported, describe, trace, unsupported
from dmn.graph.tracer import is_query
from dmn.graph.wrappers import unwrap

_NEEDS = "no rule for intervals; add one to dmn.certify.MODULES or FUNCTIONS"
_SUMS = {operator.add: 1, torch.add: 1, operator.sub: -1, torch.sub: -1}


class Term(NamedTuple):
    """A term of the logits: sign * (weight @ features + bias), with features in a box.

    Attributes:
        sign: 1 or -1.
        weight: (K, F); None for logits that come from no linear layer, which are the features.
        bias: (K,) or None.
        features: Interval of tensors (B, F).
    """

    sign: int
    weight: Tensor | None
    bias: Tensor | None
    features: Interval


def propagate(net: nn.Module, low: Tensor, high: Tensor, eps: float = 0.0) -> list[Term]:
    """Return the logits over a box as a sum of terms, each the last linear layer of a branch.

    Args:
        net: Any network whose operations have rules. Its weights are used as they are, so that the
            ends can be differentiated by them, and its eval mode.
        low: Lower ends of the box, (B, C, H, W).
        high: Upper ends.
        eps: Machine epsilon of the network's numbers, for outward rounding; 0 for none.

    Raises:
        UnsupportedError: lists all operations without a rule.
    """
    net = unwrap(net)
    operations = getattr(net, "network", None)  # of a split network
    net = operations if isinstance(operations, fx.GraphModule) else net
    traced = trace(net, lambda module: rule_of(module) is not None)
    graph = _Graph(net, traced.network, eps)
    graph.check(traced.unsupported)
    (returned,) = traced.network.graph.output_node().all_input_nodes
    heads = list(graph.heads(returned))
    return graph.run(Interval(low, high), heads)


class _Graph:
    """A traced network with the weights of the original."""

    def __init__(self, net: nn.Module, network: fx.GraphModule, eps: float) -> None:
        self._net, self._network, self._eps = net, network, eps

    def check(self, refused: tuple[Unsupported, ...]) -> None:
        """Refuse operations without a rule."""
        depends: set[fx.Node] = set()
        missing = list(refused)
        for node in self._network.graph.nodes:
            moves = node.op == "placeholder" or depends.intersection(node.all_input_nodes)
            if not moves or node.op == "output" or is_query(node):
                continue
            depends.add(node)
            if node.op != "placeholder" and self._rule(node)[0] is None:
                missing.append(Unsupported(describe(self._network, node), _NEEDS))
        if missing:
            raise unsupported(missing, f"bound {type(self._net).__name__}")

    def heads(self, node: fx.Node, sign: int = 1) -> Iterator[tuple[fx.Node, int]]:
        """Yield (node, sign) of each term of the sum that a node is."""
        if node.target in _SUMS and len(node.all_input_nodes) == len(node.args) == 2:
            first, second = node.all_input_nodes
            yield from self.heads(first, sign)
            yield from self.heads(second, sign * _SUMS[node.target])
        else:
            yield node, sign

    def run(self, box: Interval, heads: list[tuple[fx.Node, int]]) -> list[Term]:
        """Return the terms of the logits."""
        elided = {node: node.all_input_nodes[0] for node, _ in heads if self._is_linear(node)}
        needed = [elided.get(node, node) for node, _ in heads]
        wanted = self._before(needed)
        uses = Counter(source for node in wanted for source in node.all_input_nodes)
        uses.update(needed)
        values: dict[fx.Node, Any] = {}
        for node in (node for node in self._network.graph.nodes if node in wanted):
            values[node] = box if node.op == "placeholder" else self._call(node, values)
            for source in node.all_input_nodes:
                uses[source] -= 1
                if not uses[source]:
                    del values[source]
        terms = []
        for (node, sign), source in zip(heads, needed, strict=True):
            weight = bias = None
            if node in elided:
                linear: Any = self._module(node)
                weight, bias = (cast(each, box) for each in (linear.weight, linear.bias))
            terms.append(Term(sign, weight, bias, values[source]))
        return terms

    def _before(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """Return nodes and all that they are computed from."""
        found: set[fx.Node] = set()
        while nodes:
            found.update(nodes)
            nodes = [
                source for node in nodes for source in node.all_input_nodes if source not in found
            ]
        return found

    def _is_linear(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self._module(node), nn.Linear)

    def _rule(self, node: fx.Node) -> tuple[Rule | None, Any]:
        if node.op != "call_module":
            return FUNCTIONS.get(node.target), node.target
        module = self._module(node)
        return rule_of(module), module

    def _module(self, node: fx.Node) -> nn.Module:
        """Return the module of the trace, or the original's, if it has weights."""
        copy = self._network.get_submodule(str(node.target))
        if not any(True for _ in copy.parameters()) and not any(True for _ in copy.buffers()):
            return copy  # in eval mode
        try:
            original = self._net.get_submodule(str(node.target))
        except AttributeError:
            return copy
        return original if isinstance(original, type(copy)) else copy

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        args, options = fx.node.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        if node.op == "get_attr":
            return _attribute(self._net, self._network, str(node.target))
        if is_query(node) or not any(isinstance(values[s], Interval) for s in node.all_input_nodes):
            first, *others = (a.low if isinstance(a, Interval) else a for a in args)
            if node.op == "call_method":
                return getattr(first, str(node.target))(*others, **options)
            target: Any = self._module(node) if node.op == "call_module" else node.target
            return target(first, *others, **options)
        rule, applied = self._rule(node)
        assert rule is not None
        return rule(applied, self._eps, *args, **options)


def _attribute(net: nn.Module, network: nn.Module, path: str) -> Any:
    """Return a parameter, a buffer or a constant by its path, the original's if it has it."""
    for owner in (net, network):
        try:
            return operator.attrgetter(path)(owner)
        except AttributeError:
            continue
    raise AttributeError(path)
