"""What is held at the image in a split network."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from torch import fx, nn

from dmn.graph.nodes import operation_name, owner_of, place_and_kind
from dmn.graph.trace import Traced
from dmn.rules.base import Rule
from dmn.rules.hold import HELD
from dmn.rules.local import Local, hold

log = logging.getLogger(__name__)
_told: set[str] = set()


def held_operations(traced: Traced, rules: Mapping[str, Rule]) -> dict[str, str]:
    """Return what is held, by the path and the class of the module that has it as a coefficient.

    In modules with several such operations, and in the network itself, each operation has the name
    of its layer.

    Args:
        traced: The network, with its marks.
        rules: The rule of each node with streams, by the node's name.
    """
    network = traced.network
    layers = {node: layer for layer, node in reversed(traced.layers.items())}  # one of each node
    held = {
        node: what
        for node in reversed(layers)
        if node.name in rules and (what := _held_at(node, rules[node.name]))
    }
    owners = {node: owner_of(network, node) for node in held}
    counts = Counter(path for path, _ in owners.values())
    found = {}
    for node, (path, kind) in owners.items():
        if not path or counts[path] > 1:
            path, kind = layers[node], operation_name(network, node)
        found[f"{path} ({kind})"] = held[node]
    return found


def _held_at(node: fx.Node, rule: Rule) -> str:
    """Return what an operation holds; empty if it holds nothing."""
    if isinstance(rule, Local):
        return rule.holds
    marks = (source.meta[HELD] for source in node.all_input_nodes if source.target is hold)
    return ", ".join(dict.fromkeys(marks))


def counted(held: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """Count what is held, by the class of the module and by what is held."""
    return Counter((place_and_kind(name)[1], what) for name, what in held.items())


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
        kinds = Counter(place_and_kind(each)[1] for each in held)
        log.info(
            "%s is split at each image: coefficients of %s are held there. Predictions are exact; "
            "g and h are monotone for that image only (products='refuse' raises an error instead)",
            name,
            ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        )
    if head is not None:
        log.info(
            "%s ends in a %s, which is left out: the logits before it are split and explained",
            name,
            type(head).__name__,
        )
