"""Rewrite a graph so that its gradients times its activations are relevance, as in AttnLRP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from dmn.baselines.attention import (
    CONVOLUTIONS,
    LINEAR,
    PRODUCTS,
    SOFTMAX,
    find_activations,
    find_attention,
)
from dmn.baselines.gradient_rules import (
    GammaRule,
    group_norm_rule,
    identity_rule,
    layer_norm_rule,
    normalize_rule,
    rms_norm_rule,
    uniform_rule,
)
from dmn.graph import Unsupported, describe, is_call, target_of, unsupported
from dmn.nn.attention import attention_weights, module_mask
from dmn.rules import Activation, find_rules
from dmn.rules.names import all_spellings

_MULTIPLIED = PRODUCTS | all_spellings("mul multiply")
_DIVIDED = all_spellings("div divide true_divide truediv")
_INVERSES = all_spellings("rsqrt reciprocal")
_DETACHED = all_spellings("detach") | {module_mask}
_WEIGHTS = (*SOFTMAX, attention_weights)
_LINEAR = (*LINEAR, *CONVOLUTIONS)
_NORMS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(all_spellings("layer_norm"), layer_norm_rule),
    **dict.fromkeys(all_spellings("rms_norm"), rms_norm_rule),
    **dict.fromkeys(all_spellings("group_norm"), group_norm_rule),
    **dict.fromkeys(all_spellings("normalize"), normalize_rule),
}


class _Rewriting:
    """A graph that is being rewritten.

    Args:
        network: The graph; it is changed in place.

    Attributes:
        activations: The nodes through which gradients go back to the images.
        rules: The rules of split networks, which say what is elementwise and what has no rule.
        done: The nodes that need no rule of a split network.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        self.network, self.graph = network, network.graph
        self.activations = find_activations(network)
        self.rules = find_rules(network)
        self.done: set[fx.Node] = set()

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the activations that an operation takes, each as often as it takes it."""
        found: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), found.append)
        return [operand for operand in found if operand in self.activations]

    def after(
        self, node: fx.Node, function: Callable[..., Any], *args: Any, **options: Any
    ) -> None:
        """Let a function of a node and others take the place of the node."""
        with self.graph.inserting_after(node):
            new = self.graph.call_function(function, (node, *args), options)
        node.replace_all_uses_with(new, lambda user: user is not new)
        if function is not torch.detach:
            self.activations.add(new)

    def before(self, node: fx.Node, function: Callable[..., Any], *args: Any) -> fx.Node:
        """Call a function before a node."""
        with self.graph.inserting_before(node):
            return self.graph.call_function(function, args)

    def weight(self, node: fx.Node) -> fx.Node | None:
        """Return the weight of the module that a node calls."""
        module: Any = target_of(self.network, node)
        if module.weight is None:
            return None
        with self.graph.inserting_before(node):
            return self.graph.get_attr(f"{node.target}.weight")


def apply_rules(
    network: fx.GraphModule, conv_gamma: float, linear_gamma: float, hold_weights: bool, job: str
) -> None:
    """Rewrite a graph in place, so that its gradients are those of AttnLRP.

    Args:
        network: As `dmn.baselines.attention.trace_attention` returns it.
        conv_gamma: Strength of the gamma rule in convolutions.
        linear_gamma: The same in linear layers that are no part of attention.
        hold_weights: Whether the weights of attention count as constants.
        job: What it is for, such as "explain ViT by AttnLRP".

    Raises:
        UnsupportedError: for operations without a rule; lists them.
    """
    work = _Rewriting(network)
    layers = find_attention(network)
    weights = {layer.weights for layer in layers}
    in_attention = {node for layer in layers for node in (*layer.before, *layer.after)}
    nodes = [node for node in network.graph.nodes if node in work.activations]
    for node in nodes:
        if node.op.startswith("call") and (node.target in _DETACHED or not work.operands(node)):
            work.activations.remove(node)
        elif is_call(network, node, _LINEAR):
            convolves = is_call(network, node, CONVOLUTIONS)
            gamma = 0.0 if node in in_attention else linear_gamma
            _favour(work, node, conv_gamma if convolves else gamma)
        elif is_call(network, node, _WEIGHTS):
            _weights(work, node, hold_weights and node in weights)
        else:
            _rewrite(work, node)
    relevant = _relevant(network.graph)
    refused = [
        Unsupported(describe(network, node), rule)
        for node, rule in work.rules.items()
        if isinstance(rule, str) and node in relevant & work.activations - work.done
    ]
    if refused:
        raise unsupported(refused, job)
    network.graph.lint()
    network.recompile()


def _favour(work: _Rewriting, node: fx.Node, gamma: float) -> None:
    """Apply the gamma rule to a linear operation; at 0 its own gradient is the epsilon rule's."""
    if gamma == 0 or len(work.operands(node)) > 1:
        return
    path = f"gamma_{node.name}"
    work.network.add_submodule(path, GammaRule(target_of(work.network, node), gamma))
    keywords = {"x" if key == "input" else key: value for key, value in node.kwargs.items()}
    node.op, node.target, node.kwargs = "call_module", path, keywords


def _weights(work: _Rewriting, node: fx.Node, held: bool) -> None:
    """Apply the rule of softmax: its own gradient, or none."""
    work.done.add(node)
    if held:
        work.after(node, torch.detach)
    elif is_call(work.network, node, (attention_weights,)):
        query, key, *others = node.args
        halves = (work.before(node, uniform_rule, operand, 2) for operand in (query, key))
        node.args = (*halves, *others)


def _rewrite(work: _Rewriting, node: fx.Node) -> None:
    """Apply the rule of a product, a quotient, a norm or an elementwise function, if it is one."""
    rule, operands = work.rules.get(node), work.operands(node)
    if is_call(work.network, node, _DIVIDED) and node.args[1] in operands:
        held = work.before(node, torch.detach, node.args[1])
        node.args = (node.args[0], held, *node.args[2:])
        work.done.add(node)
    elif is_call(work.network, node, _MULTIPLIED):
        for operand in operands:
            if is_call(work.network, operand, _INVERSES):
                node.replace_input_with(operand, work.before(node, torch.detach, operand))
        if len(operands := work.operands(node)) > 1:
            work.after(node, uniform_rule, len(operands))
        work.done.add(node)
    elif node.target in _NORMS:
        work.after(node, _NORMS[node.target], *node.args, **node.kwargs)
        work.done.add(node)
    elif node.op == "call_module" and (norm := _norm_module(work, node)):
        function, size, eps = norm
        work.after(node, function, operands[0], size, work.weight(node), eps=eps)
        work.done.add(node)
    elif isinstance(rule, Activation) and not rule.is_relu:
        at_zero = _at_zero(work, node, operands[0]) if rule.at_zero else None
        work.after(node, identity_rule, operands[0], at_zero)


def _at_zero(work: _Rewriting, node: fx.Node, x: fx.Node) -> fx.Node:
    """Compute an elementwise function at 0."""
    zero = work.before(node, torch.zeros_like, x)
    with work.graph.inserting_before(node):
        return work.graph.node_copy(node, lambda source: zero if source is x else source)


def _norm_module(work: _Rewriting, node: fx.Node) -> tuple[Callable[..., Any], Any, Any] | None:
    """Return the rule of a module that normalises, over what it does so, and its epsilon."""
    norm: Any = target_of(work.network, node)
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        rule = layer_norm_rule if isinstance(norm, nn.LayerNorm) else rms_norm_rule
        return rule, norm.normalized_shape, norm.eps
    if isinstance(norm, nn.GroupNorm):
        return group_norm_rule, norm.num_groups, norm.eps
    if isinstance(norm, _InstanceNorm) and not norm.track_running_stats:
        return group_norm_rule, norm.num_features, norm.eps
    return None


def _relevant(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that relevance reaches, from the output back to what is held."""
    relevant: set[fx.Node] = set()
    queue = graph.find_nodes(op="output")
    for node in queue:
        for source in node.all_input_nodes if node.target not in _DETACHED else ():
            if source not in relevant:
                relevant.add(source)
                queue.append(source)
    return relevant
