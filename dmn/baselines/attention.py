"""Attention written out in a traced network: its projections, its weights and their products."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from dmn.graph import Unsupported, describe, is_call, rename, target_of, trace, unsupported
from dmn.graph.tracer import is_query
from dmn.nn.attention import (
    AttentionOutput,
    attention_weights,
    from_heads,
    module_mask,
    projection,
    to_heads,
)
from dmn.rules import is_known
from dmn.rules.names import all_spellings

SOFTMAX = all_spellings("Softmax softmax")
PRODUCTS = all_spellings("matmul bmm einsum")
LINEAR = all_spellings("Linear linear")
CONVOLUTIONS = all_spellings(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"
) | {_ConvNd}


class Attention(NamedTuple):
    """One layer of attention in a graph.

    Attributes:
        name: The layer, for messages.
        weights: Returns the weights (..., L, S); each row sums up to 1.
        before: The layers which project the tokens to queries, keys and values.
        after: The layers which project the output of attention.
    """

    name: str
    weights: fx.Node
    before: tuple[fx.Node, ...]
    after: tuple[fx.Node, ...]


def trace_attention(model: nn.Module, example: Tensor | None, job: str) -> fx.GraphModule:
    """Write a copy of a network as a graph in which attention is written out.

    Args:
        model: As for `dmn.graph.trace`.
        example: As for `dmn.graph.trace`.
        job: What it is for, such as "explain ViT by AttnLRP".

    Raises:
        UnsupportedError: if the network cannot be traced, or attention cannot be written out.
    """
    network, _, refused = trace(model, is_known, example)
    refused = (*refused, *_write_attention_out(network))
    if refused:
        raise unsupported(refused, job)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def find_attention(network: fx.GraphModule) -> list[Attention]:
    """Find the layers of attention in a graph, in the order in which they run.

    Args:
        network: As `trace_attention` returns it.
    """
    activations = find_activations(network)

    def is_layer(node: fx.Node) -> bool:
        return is_call(network, node, (*LINEAR, *CONVOLUTIONS))

    def inputs(node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in activations]

    found = []
    for node in network.graph.nodes:
        if not is_call(network, node, (attention_weights, *SOFTMAX)):
            continue
        users = nearest(node, lambda n: n.users, lambda n: is_layer(n) or _is_product(network, n))
        products = [user for user in users if not is_layer(user) and len(inputs(user)) > 1]
        if products:
            before = nearest([node, *products], inputs, is_layer)
            after = nearest(products, lambda n: n.users, is_layer)
            found.append(Attention(describe(network, node), node, before, after))
    return found


def nearest(
    starts: fx.Node | Iterable[fx.Node],
    step: Callable[[fx.Node], Iterable[fx.Node]],
    wanted: Callable[[fx.Node], bool],
) -> tuple[fx.Node, ...]:
    """Return the first nodes that are wanted, on every way from where it starts.

    Args:
        starts: One node, or several; they are passed over.
        step: Returns the nodes that come next, such as the users of a node.
        wanted: Returns whether a way ends at a node.
    """
    queue = [starts] if isinstance(starts, fx.Node) else list(starts)
    seen, found = set(queue), list[fx.Node]()
    for node in queue:
        for other in step(node):
            if other not in seen:
                seen.add(other)
                (found if wanted(other) else queue).append(other)
    return tuple(found)


def find_activations(network: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes of a graph that are tensors computed from the images, and the images."""
    found = set(network.graph.find_nodes(op="placeholder"))
    for node in network.graph.nodes:
        if not is_query(node) and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _is_product(network: fx.GraphModule, node: fx.Node) -> bool:
    return is_call(network, node, PRODUCTS)


def _write_attention_out(network: fx.GraphModule) -> list[Unsupported]:
    """Replace attention in a graph, in place; return what cannot be replaced, and why."""
    refused = []
    for node in list(network.graph.nodes):
        write = next((w for kind, w in _WRITERS.items() if is_call(network, node, (kind,))), None)
        if write is None:
            continue
        with network.graph.inserting_before(node):
            written = write(network, node)
        if isinstance(written, str):
            refused.append(Unsupported(describe(network, node), written))
            continue
        rename(network, node, written)
        node.replace_all_uses_with(written)
        network.graph.erase_node(node)
    return refused


def _write_module(network: fx.GraphModule, node: fx.Node) -> fx.Node | str:
    """Write a module of attention as nodes, or return why this is not possible."""
    attention: Any = target_of(network, node)
    if attention.bias_k is not None or attention.add_zero_attn:
        return "adds keys and values of its own; leave out add_bias_kv and add_zero_attn"
    names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
    options: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    query, key, value = (
        _traced(_linear(network, node, name, options[argument]))
        for name, argument in (("q", "query"), ("k", "key"), ("v", "value"))
    )
    heads: list[Any] = [to_heads(attention, x) for x in (query, key, value)]
    masks = [options.get(name) for name in ("key_padding_mask", "attn_mask")]
    create = network.graph.call_function
    mask = create(module_mask, (heads[0].node, *masks)) if any(masks) else None
    weights = create(attention_weights, (heads[0].node, heads[1].node, mask))
    weights.meta = dict(node.meta)
    joined: Any = from_heads(attention, _traced(create(torch.matmul, (weights, heads[2].node))))
    return network.graph.call_module(f"{node.target}.out_proj", (joined.node,))


def _traced(node: fx.Node) -> Any:
    """Return a node as a tensor in a trace, so that what is done to it is recorded."""
    return fx.Proxy(node)


def _linear(network: fx.GraphModule, node: fx.Node, name: str, x: fx.Node) -> fx.Node:
    """Project tokens to queries, keys or values by a linear layer of its own."""
    attention: Any = target_of(network, node)
    weight, bias = projection(attention, name)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    path = f"{node.target}.{name}_proj"
    network.add_submodule(path, layer)
    return network.graph.call_module(path, (x,))


def _write_function(network: fx.GraphModule, node: fx.Node) -> fx.Node | str:
    """Write a call of scaled dot-product attention as nodes."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    options: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if options.get("enable_gqa"):
        return "shares keys among the heads; repeat them, and leave out enable_gqa"
    create = network.graph.call_function
    kept = ("attn_mask", "is_causal", "scale")
    given: dict[str, Any] = {name: options[name] for name in kept if name in options}
    weights = create(attention_weights, (options["query"], options["key"]), given)
    weights.meta = dict(node.meta)
    return create(torch.matmul, (weights, options["value"]))


_WRITERS: dict[Any, Callable[[fx.GraphModule, fx.Node], fx.Node | str]] = {
    AttentionOutput: _write_module,
    F.scaled_dot_product_attention: _write_function,
}
