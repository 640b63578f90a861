"""Leave out the softmax at the end of a network, and return its logits."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dmn.graph.nodes import path_of, target_of
from dmn.graph.trace import LAYERS, Traced, nodes_by_name, rename

_SOFTMAX = {
    *("softmax", "log_softmax", torch.softmax, torch.log_softmax, F.softmax, F.log_softmax),
    *(torch.special.softmax, torch.special.log_softmax),
}


def drop_softmax_head(traced: Traced) -> tuple[Traced, nn.Module | None]:
    """Let a network that ends in softmax or log-softmax over classes return its logits.

    Args:
        traced: A network whose output is (B, K). It is changed in place.

    Returns:
        The trace without the softmax, in which the modules that returned it are named by the
        logits, and the softmax; or the trace itself and None, if the network ends otherwise.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softmax(dim=1))
        >>> traced = trace(net)
        >>> headless, softmax = drop_softmax_head(traced)
        >>> softmax, list(headless.layers)
        (Softmax(dim=1), ['input', '0', '1'])
    """
    softmax = _find_softmax_head(traced)
    if softmax is None:
        return traced, None
    network = traced.network
    output = network.graph.output_node()
    (head,) = output.all_input_nodes
    logits = head.all_input_nodes[0]
    output.replace_input_with(head, logits)
    own_name = re.compile(re.escape(path_of(head)) + r"(_\d+)?")
    names = network.meta[LAYERS]
    for name in [name for name, node in names.items() if node == head.name]:
        if own_name.fullmatch(name):
            del names[name]
    rename(network, head, logits)  # what is left names modules that returned it
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return traced._replace(layers=nodes_by_name(network)), softmax


def _find_softmax_head(traced: Traced) -> nn.Module | None:
    """Return the softmax or log-softmax over classes at the end of a network, if there is one."""
    head = traced.network.graph.output_node().args[0]
    if not isinstance(head, fx.Node):
        return None
    target = target_of(traced.network, head)
    if not _is_over_classes(head, target):
        return None
    name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
    return nn.LogSoftmax(1) if "log" in name.lower() else nn.Softmax(1)


def _is_over_classes(node: fx.Node, target: Any) -> bool:
    if isinstance(target, nn.Softmax | nn.LogSoftmax):
        return target.dim in (None, 1, -1)
    if node.op not in ("call_function", "call_method") or target not in _SOFTMAX:
        return False
    arguments = [*node.args[1:2], *(node.kwargs[key] for key in ("dim",) if key in node.kwargs)]
    return (arguments or [None])[0] in (None, 1, -1)
