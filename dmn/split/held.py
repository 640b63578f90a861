"""What is held at the image in a split network."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from torch import nn

from dmn.graph.nodes import operation_name
from dmn.graph.trace import Traced
from dmn.rules.base import Rule
from dmn.rules.local import Local, hold

log = logging.getLogger(__name__)
_told: set[str] = set()


def held_operations(traced: Traced, rules: Mapping[str, Rule]) -> dict[str, str]:
    """Return what is held, by the layer that has it as a coefficient.

    Args:
        traced: The network, with its marks.
        rules: The rule of each node with streams, by the node's name.
    """
    found = {}
    layers = {node: layer for layer, node in reversed(traced.layers.items())}  # one of each node
    for node, layer in reversed(layers.items()):
        rule = rules.get(node.name)
        marks = [source for source in node.all_input_nodes if source.target is hold]
        if isinstance(rule, Local):
            found[f"{layer} ({operation_name(traced.network, node)})"] = rule.holds
        elif rule is not None and marks:
            sources = (
                operation_name(traced.network, source)
                for mark in marks
                for source in mark.all_input_nodes
            )
            found[f"{layer} ({operation_name(traced.network, node)})"] = ", ".join(
                dict.fromkeys(sources)
            )
    return found


def counted(held: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """Count what is held, by the kind of the operation and by what is held."""
    return Counter((name.rpartition("(")[2].rstrip(")"), what) for name, what in held.items())


def tell_once(name: str, held: Mapping[str, str], head: nn.Module | None) -> None:
    """Log what is held in a network, and what is left out, once for each class of networks.

    Args:
        name: Of the network's class.
        held: What `held_operations` returned.
        head: The softmax that was left out.
    """
    if name in _told:
        return
    _told.add(name)
    if held:
        kinds = (f"{count} {kind}" for (kind, _), count in counted(held).items())
        log.info(
            "%s is split at each image: coefficients of %s are held there. Predictions are exact; "
            "g and h are monotone for that image only (products='refuse' raises an error instead)",
            name,
            ", ".join(kinds),
        )
    if head is not None:
        log.info(
            "%s ends in a %s, which is left out: the logits before it are split and explained",
            name,
            type(head).__name__,
        )
