"""Replace what overwrites tensors by operations that return new ones."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth, stochastic_depth

from dmn.graph.nodes import Unsupported, describe, name_of, target_of
from dmn.graph.tracer import IN_PLACE_OPERATORS, is_number
from dmn.graph.unpack import SPLITTING

_RESHAPED = (
    *("reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim"),
    *("moveaxis", "squeeze", "unsqueeze", "narrow", "select", "t", "ravel"),
)
_VIEWS = {
    *SPLITTING,
    *_RESHAPED,
    *(getattr(torch, name) for name in _RESHAPED),
    *("view", "view_as", "reshape_as", "expand", "expand_as", "contiguous", "detach", "T", "mT"),
    *("to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda"),
    *("unfold", "diagonal"),
    *(getattr(F, f"dropout{n}") for n in ("", "1d", "2d", "3d")),
    *(getattr(nn, f"Dropout{n}") for n in ("", "1d", "2d", "3d")),
    *(F.alpha_dropout, F.feature_alpha_dropout, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(operator.getitem, stochastic_depth, StochasticDepth, nn.Flatten, nn.Unflatten, nn.Identity),
}
_OF_THE_WHOLE = {"zero_", "fill_", "copy_"}  # methods that set all elements


def assigned(x: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of a tensor in which some elements are others: `x[index] = value`.

    Args:
        x: The tensor; it is left as it is.
        index: Which elements, in any form that indexing takes.
        value: Numbers that broadcast to them.
    """
    copy = x.clone()
    copy[index] = value
    return copy


def replace_in_place(network: fx.GraphModule) -> list[Unsupported]:
    """Replace in-place operations; later users of the overwritten value get the new one.

    Args:
        network: A traced network, changed in place.

    Returns:
        The operations that overwrite a view of what is used again, where it is not sure what the
        other then is.
    """
    calls = [node for node in network.graph.nodes if node.op.startswith("call")]
    in_place = [node for node in calls if _make_out_of_place(network, node)]
    numbers: set[fx.Node] = set()  # immutable, so that they have no aliases
    for node in calls:
        if is_number(node, numbers):
            numbers.add(node)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.__dict__["inplace"] = False
    written = _Written(network)
    in_place = [node for node in in_place if node.all_input_nodes[0] not in numbers]
    return [
        Unsupported(
            describe(network, node),
            "overwrites a view of a tensor that is used again; write it out of place",
        )
        for node in in_place
        if not (_is_set_again(node) or written.hand_on(node))
    ]


class _Written:
    """Hand what an operation wrote to those who read the memory later."""

    def __init__(self, network: fx.GraphModule) -> None:
        self._network = network
        self._order = {node: position for position, node in enumerate(network.graph.nodes)}

    def hand_on(self, node: fx.Node) -> bool:
        """Replace later reads of what a node overwrote; returns whether all could be."""
        overwritten = node.all_input_nodes[0]
        for user in self._later(overwritten, node):
            user.replace_input_with(overwritten, node)
        read_again = [
            alias
            for alias in _aliases(self._network, overwritten)
            if self._order[alias] < self._order[node] and self._later(alias, node)
        ]
        if not read_again:
            return True
        readers = [*node.users] if _is_slice(overwritten) else []
        new = self._whole(node)
        read = {alias: self._later(alias, node) for alias in read_again}
        for alias, users in {overwritten: readers, **read}.items():
            value = self._value(alias, new, node) if users else None
            for user in users:
                if value is None:
                    return False
                user.replace_input_with(node if alias is overwritten else alias, value)
        return True

    def _later(self, node: fx.Node, than: fx.Node) -> set[fx.Node]:
        return {user for user in node.users if self._order[user] > self._order[than]}

    def _whole(self, node: fx.Node) -> dict[fx.Node, fx.Node]:
        """Return what was overwritten, or what it is a slice of, and its new value."""
        view, value = node.all_input_nodes[0], node
        while _is_slice(view):
            source, index = view.args
            value = self._insert(node, assigned, (source, index, value))
            view = source  # type: ignore[assignment]
        return {view: value}

    def _value(self, alias: fx.Node, new: dict[fx.Node, fx.Node], node: fx.Node) -> fx.Node | None:
        """Return the new value of a slice of what was overwritten; None if it is no slice."""
        if alias not in new and _is_slice(alias):
            source = self._value(alias.all_input_nodes[0], new, node)
            if source is not None:
                new[alias] = self._insert(node, operator.getitem, (source, alias.args[1]))
        return new.get(alias)

    def _insert(self, node: fx.Node, function: Any, arguments: tuple[Any, ...]) -> fx.Node:
        """Insert an operation after what earlier calls inserted after a node."""
        last = node
        while self._order.get(last.next) == self._order[node]:
            last = last.next
        with self._network.graph.inserting_after(last):
            inserted = self._network.graph.call_function(function, arguments)
        inserted.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
        self._order[inserted] = self._order[node]
        return inserted


def _make_out_of_place(network: fx.GraphModule, node: fx.Node) -> bool:
    """Make one operation out of place; returns whether it was in place."""
    target = target_of(network, node)
    if isinstance(target, nn.Module):
        return bool(getattr(target, "inplace", False))  # the caller switches it off, for all calls
    if node.kwargs.get("inplace"):
        node.update_kwarg("inplace", False)
        return True
    if target is operator.setitem or target in _OF_THE_WHOLE:
        _set_items(node)
        return True
    replacement = IN_PLACE_OPERATORS.get(target) or _without_underscore(target)
    if replacement:
        node.target = replacement
    return bool(replacement)


def _set_items(node: fx.Node) -> None:
    """Make what sets items of a tensor, or all of them, return another tensor."""
    if node.target is not operator.setitem:
        x, *values = (*node.args[:2], *node.kwargs.values(), 0)  # zero_ has no value
        everything: Any = ...
        node.args = (x, everything, values[0])
    node.op, node.target, node.kwargs = "call_function", assigned, {}


def _without_underscore(target: Any) -> Any:
    """Return the out-of-place version of a function or method such as relu_."""
    name = name_of(target)
    if not name.endswith("_") or name.endswith("__"):
        return None
    name = name.removesuffix("_")
    if isinstance(target, str):
        return name
    return getattr(torch, name, None) or getattr(F, name, None)


def _is_set_again(node: fx.Node) -> bool:
    """Return whether an operation is the first half of `x[index] += value`."""
    view, users = node.all_input_nodes[0], list(node.users)
    if not _is_slice(view) or len(view.users) > 1 or len(users) != 1:
        return False
    return users[0].target is assigned and users[0].args == (*view.args, node)


def _is_slice(node: fx.Node) -> bool:
    """Return whether a node surely shows a part of its input: by slices and numbers."""
    if node.target is not operator.getitem or node.all_input_nodes[0].target in SPLITTING:
        return False
    index = node.args[1]
    index = index if isinstance(index, tuple) else (index,)
    return all(each is None or each is ... or type(each) in (int, slice) for each in index)


def _aliases(network: fx.GraphModule, node: fx.Node) -> set[fx.Node]:
    """Return the nodes whose values may share a node's memory."""
    aliases, queue = set(), [node]
    while queue:
        current = queue.pop()
        sources = current.all_input_nodes[:1] if _is_view(network, current) else []
        shown = (user for user in current.users if user.all_input_nodes[0] is current)
        views = [user for user in shown if _is_view(network, user)]
        queue += [
            alias for alias in (*sources, *views) if alias not in aliases and alias is not node
        ]
        aliases.update(queue)
    return aliases


def _is_view(network: fx.GraphModule, node: fx.Node) -> bool:
    target = target_of(network, node)
    return (type(target) if isinstance(target, nn.Module) else target) in _VIEWS
