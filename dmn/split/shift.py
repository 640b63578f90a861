"""Where the shift alpha acts, and how strongly: at the ends of chains of linear operations.

A chain is all that is linear between two operations that are not. It ends at the input of the
second one, or at the output of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor, fx

from dmn.graph.depth import path_counts
from dmn.nn import GridFinder
from dmn.rules.base import Rule
from dmn.rules.norms import Scaling


class Chains:
    """The ends of the chains of a network.

    Args:
        nodes: The network's nodes, in order.
        rules: The rule of each node with streams.
        output: The node of the logits.

    Attributes:
        weighted: For each end, the operations with weights in its chain.
        depth: For each node, how many ends with weights there are on the longest path from the
            image, itself included.
        norms: Ends that are inputs of normalisation.
        deepest: The depth of the last end that is not of the head.
        head: Ends of linear layers on vectors, and the output: after the first of these layers
            there is no convolution, no attention, and no pooling or selection of positions.
    """

    def __init__(
        self, nodes: Sequence[fx.Node], rules: Mapping[fx.Node, Rule], output: fx.Node
    ) -> None:
        ends = [node for node in nodes if node in rules and rules[node].nonlinear]
        self.norms = {node for node in ends if isinstance(rules[node], Scaling)}
        chain: dict[fx.Node, dict[fx.Node, None]] = {}  # weights, up to each node
        self.weighted: dict[fx.Node, list[fx.Node]] = {}
        for node in nodes:
            before = {each: None for source in node.all_input_nodes for each in chain[source]}
            rule = rules.get(node)
            if rule is not None and rule.nonlinear:
                self.weighted[node] = list(before)
                before = {}
            elif rule is not None and rule.weighted:
                before[node] = None
            chain[node] = before
        self.depth = path_counts(nodes, lambda node: bool(self.weighted.get(node)))
        self.weighted.setdefault(output, list(chain[output]))
        self.head = {output}
        before_pooling = _before_pooling(nodes, rules)
        for end in reversed(ends):
            weighted = self.weighted[end]
            if not before_pooling.isdisjoint(weighted) or not all(
                rules[node].on_vectors for node in weighted
            ):
                break
            self.head.add(end)
        else:
            self.head = {output}  # no convolution: only the last linear operations
        self.deepest = max((self.depth[end] for end in ends if end not in self.head), default=1)


def _before_pooling(nodes: Sequence[fx.Node], rules: Mapping[fx.Node, Rule]) -> set[fx.Node]:
    """Return the nodes on a path to an operation that leaves out or joins positions."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if node in found or (node in rules and rules[node].reduces):
            found.update(source for source in node.all_input_nodes if source in rules)
    return found


class Resolution:
    """How many pixels of an image each input stands for that the weights of a chain are given.

    Args:
        image: The node of the image.
        x: Images (B, C, H, W).
    """

    def __init__(self, image: fx.Node, x: Tensor) -> None:
        self._image = x.shape[2:].numel()
        self._grids = GridFinder(x.shape)
        self._positions = {image: self._image}
        self._weighed = {image: 0}  # positions of the inputs of weights so far in the chain

    def add(self, node: fx.Node, rule: Rule, sources: Sequence[fx.Node], out: Tensor) -> None:
        """Follow an operation; vectors keep the positions that they are made of, up to weights."""
        finest = max(self._positions[source] for source in sources)
        weighed = max(self._weighed[source] for source in sources)
        kept = 1 if rule.weighted else finest
        self._positions[node] = self._count(out) if out.dim() > 2 else kept
        if rule.weighted and not weighed:
            weighed = finest
        self._weighed[node] = 0 if rule.nonlinear else weighed

    def _count(self, out: Tensor) -> int:
        """Return the number of positions; where there is no grid, take channels to come first."""
        grid = self._grids.find(out.shape)
        return out.shape[2:].numel() if grid is None else prod(grid.sides)

    def pixels(self, source: fx.Node) -> float:
        """Return the number for the chain that ends at a node."""
        return self._image / (self._weighed[source] or self._positions[source])


# From 32 validation scenes of a ViT and a ConvNeXt. What is normalised is a sum of whole blocks.
# They cancel less than contributions of weights, and may be amplified more: up to 200 times.
NORM_ALPHA = 0.4975


def shift_at(
    chains: Chains, alpha: Any, head_alpha: Any, norm_alpha: float | None = None
) -> Callable[[fx.Node], Any]:
    """Return a function from an end to its shift, for relevance.

    Args:
        chains: Of the network.
        alpha: A number; a pair of the shifts of the first and of the last chain, linear in between;
            or shifts by node, of the end or of a layer with weights in its chain, 0 for the rest.
        head_alpha: The shift of the head, where alpha does not name it.
        norm_alpha: The shift of norms, likewise; None for that of other ends.
    """

    def shift(end: fx.Node) -> Any:
        if isinstance(alpha, Mapping):
            named = [node for node in (end, *reversed(chains.weighted[end])) if node.name in alpha]
            if named:
                return alpha[named[0].name]
        if norm_alpha is not None and end in chains.norms:
            return norm_alpha
        if end in chains.head:
            return head_alpha
        if isinstance(alpha, Mapping):
            return 0.0
        if not isinstance(alpha, tuple):
            return alpha
        first, last = alpha
        steps = max(chains.deepest - 1, 1)
        return last + (first - last) * (chains.deepest - chains.depth[end]) / steps

    return shift
