"""Where the head of a network begins, and a mark where no module says it."""

from __future__ import annotations

from torch import Tensor, fx, nn

from dmn.evaluate.calls import Call, unsupported
from dmn.graph.tracer import Tracer, tensors_by_type

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class HeadInput(nn.Module):
    """Marks where the head of a network begins that pools or flattens by a function."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy, as the head may overwrite it."""
        return x.clone()


def find_heads(calls: list[Call]) -> list[Call]:
    """Return the first layer of each head: its adaptive pooling, or else its flattening.

    A difference network has two heads, others one. The pooling of a gate, whose block returns an
    image with more positions, begins none.

    Args:
        calls: Of `record_calls`.

    Returns:
        One call for each of the smallest blocks that turn images into features by such a layer; no
        call if there is no such layer.
    """
    for kinds in (HeadInput, POOLS, nn.Flatten):
        found = [
            call
            for call in calls
            if call.is_leaf and call.input.dim() == 4 and isinstance(call.module, kinds)
        ]
        heads = {
            block.name: call for call in found if (block := _classifier(call, calls)) is not None
        }
        if heads:
            return list(heads.values())
    return []


def _classifier(layer: Call, calls: list[Call]) -> Call | None:
    """Return the smallest block around a layer that turns images into features; none of a gate."""
    around = [block for block in calls if layer.is_within(block)]
    if any(block.positions > max(layer.positions, 1) for block in around):
        return None
    features = (block for block in around if block.input.dim() == 4 != block.value.dim())
    return next(features, None)


def mark_head(model: nn.Module, calls: list[Call]) -> nn.Module:
    """Mark the head of a network that pools or flattens by a function in its own forward.

    Its input is what the last module returns that holds an image.

    Raises:
        UnsupportedError: if there is no such module, tokens come after it, or the forward branches
            on values.
    """
    last = [call for call in calls if call.is_leaf][-1]
    modules = "AdaptiveAvgPool2d, AdaptiveMaxPool2d or Flatten"
    refused = unsupported(last, f"comes after no {modules} module of images; give it one")
    children = [call for call in calls if call.name and "." not in call.name]
    images = [call for call in children if call.positions]
    if not images or any(call.value.dim() == 3 for call in children):
        raise refused
    try:
        with tensors_by_type():
            graph = Tracer(is_leaf=lambda module: True).trace(model)
    except Exception as error:  # a trace runs the network's own code, which can raise anything
        raise refused from error
    marked = fx.GraphModule(model, graph, type(model).__name__)
    marked.add_module("head_input", HeadInput())
    node = graph.find_nodes(op="call_module", target=images[-1].name)[-1]
    with graph.inserting_after(node):
        head = graph.call_module("head_input")
    node.replace_all_uses_with(head)
    head.args = (node,)
    marked.recompile()
    return marked
