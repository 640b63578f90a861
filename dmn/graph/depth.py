"""How deep the nodes of a graph lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import fx


def path_counts(nodes: Iterable[fx.Node], counted: Callable[[fx.Node], bool]) -> dict[fx.Node, int]:
    """Return how many nodes of a kind there are on the longest path to each, itself included.

    Args:
        nodes: Of one graph, in order.
        counted: Whether a node is of the kind.
    """
    counts: dict[fx.Node, int] = {}
    for node in nodes:
        before = max((counts[source] for source in node.all_input_nodes), default=0)
        counts[node] = before + counted(node)
    return counts
