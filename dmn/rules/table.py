"""The table of rules: what each module, function and method of torch does to the streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import Any

import torch
from torch import fx, nn
from torchvision import transforms
from torchvision.ops import stochastic_depth
from torchvision.transforms import v2

from dmn.graph.in_place import assigned
from dmn.graph.trace import target_of
from dmn.graph.tracer import is_query
from dmn.graph.unpack import piece
from dmn.nn import Add, ConvexConcave
from dmn.nn.attention import AttentionOutput
from dmn.rules import attention, norms
from dmn.rules import operations as of
from dmn.rules.base import Rule
from dmn.rules.linear import Matrix
from dmn.rules.local import GatedHalf, Local, hold
from dmn.rules.names import spellings
from dmn.rules.operations import Operation, RuleEntry
from dmn.rules.pools import adaptive_max_pool, max_pool


def _no_rule(reason: str) -> Callable[[Operation], Rule | str]:
    return lambda operation: reason


_SOFTMAX = _no_rule("softmax divides by a sum of activations: leave it out, and explain the logits")

# Each name stands for everything of that name in torch.nn, torch.nn.functional, torch and operator,
# and for the method of tensors.
_ROWS: tuple[tuple[RuleEntry, str], ...] = (
    (Matrix(), "Linear linear"),
    (of.batch_norm, "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm batch_norm"),
    (of.sum_or_shift, "add sub subtract rsub"),
    (of.product, "mul multiply matmul bmm einsum"),
    (of.power, "pow square"),
    (of.sum_of_product, "addcmul"),
    (of.divide, "div divide true_divide truediv"),
    (of.NEGATE, "neg negative"),
    (of.RELU, "ReLU relu"),
    (of.CLIPPED, "ReLU6 relu6 Hardtanh hardtanh clamp clip"),
    (of.LEAKY, "LeakyReLU leaky_relu"),
    (of.PRELU, "PReLU prelu"),
    (of.ELU, "ELU elu"),
    (of.SELU, "SELU selu"),
    (of.if_positive(of.CELU, "alpha", 1), "CELU celu"),
    (of.if_positive(of.SOFTPLUS, "beta", 1), "Softplus softplus"),
    (of.SIGMOID, "Sigmoid sigmoid"),
    (of.HARD_SIGMOID, "Hardsigmoid hardsigmoid"),
    (of.LOG_SIGMOID, "LogSigmoid logsigmoid"),
    (of.BOUNDED, "Tanh tanh Softsign softsign"),
    (of.GELU, "GELU gelu"),
    (of.SILU, "SiLU silu"),
    (of.HARDSWISH, "Hardswish hardswish"),
    (of.MISH, "Mish mish"),
    (of.pad, "pad ConstantPad1d ConstantPad2d ConstantPad3d"),
    (of.interpolate, "Upsample interpolate"),
    (of.unless_training, "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout"),
    (of.unless_training, "dropout dropout1d dropout2d dropout3d"),
    (of.unless_training, "alpha_dropout feature_alpha_dropout"),
    (of.AVERAGE, "AvgPool1d AvgPool2d AvgPool3d avg_pool1d avg_pool2d avg_pool3d"),
    (of.AVERAGE, "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d"),
    (of.AVERAGE, "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum"),
    (of.SAME, "UpsamplingBilinear2d"),
    (of.MOVE, "ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d"),
    (of.MOVE, "ReplicationPad1d ReplicationPad2d ReplicationPad3d"),
    (of.MOVE, "CircularPad1d CircularPad2d CircularPad3d"),
    (of.MOVE, "UpsamplingNearest2d"),
    (of.MOVE, "Identity Flatten flatten Unflatten unflatten view reshape view_as reshape_as"),
    (of.MOVE, "permute transpose swapaxes swapdims movedim squeeze unsqueeze expand expand_as"),
    (of.join, "cat concat concatenate stack"),
    (of.MOVE, "contiguous clone"),
    (of.SELECT, "getitem narrow select"),
    (of.MOVE, "repeat repeat_interleave roll flip Unfold unfold"),
    (of.SAME, "Fold fold"),
    (of.MOVE, "ChannelShuffle channel_shuffle PixelShuffle pixel_shuffle"),
    (of.MOVE, "PixelUnshuffle pixel_unshuffle"),
    (attention.attention, "MultiheadAttention"),
    (attention.attention_function, "scaled_dot_product_attention"),
    (norms.LAYER_NORM, "LayerNorm layer_norm"),
    (norms.RMS_NORM, "RMSNorm rms_norm"),
    (norms.GROUP_NORM, "GroupNorm group_norm"),
    (norms.instance_norm, "InstanceNorm1d InstanceNorm2d InstanceNorm3d instance_norm"),
    (norms.UNIT_LENGTH, "normalize"),
    (GatedHalf(), "GLU glu"),
    (_SOFTMAX, "Softmax softmax LogSoftmax log_softmax Softmax2d"),
)


def _pools_and_convolutions() -> Iterator[tuple[RuleEntry, str]]:
    for n in (1, 2, 3):
        yield of.convolution(n, False, of.FORWARD), f"Conv{n}d conv{n}d"
        yield of.convolution(n, True, of.TRANSPOSED), f"ConvTranspose{n}d conv_transpose{n}d"
        yield max_pool(n), f"MaxPool{n}d max_pool{n}d"
        yield adaptive_max_pool(n), f"AdaptiveMaxPool{n}d adaptive_max_pool{n}d"


RULES: dict[Any, RuleEntry] = {
    target: entry
    for entry, names in (*_ROWS, *_pools_and_convolutions())
    for name in names.split()
    for target in spellings(name)
}
RULES[Add] = of.SUM
RULES[AttentionOutput] = attention.attention
RULES[ConvexConcave] = of.BOUNDED  # slopes in [0, 1]
RULES[piece] = of.MOVE
RULES[assigned] = of.assign
RULES[transforms.Normalize] = RULES[v2.Normalize] = of.NORMALIZE
_FLOATS = ("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda")
_INTEGERS = ("bool", "byte", "char", "int", "long", "short")
RULES |= dict.fromkeys(_FLOATS, of.cast)  # methods only: torch.float is a type
RULES |= dict.fromkeys(_INTEGERS, _no_rule(of.INTEGERS))
RULES[stochastic_depth] = of.unless_training


def add_rule(target: Any, rule: Rule) -> None:
    """Register the rule of your own module, function or method.

    Args:
        target: The module's class, the function, or the method's name. A module is kept whole, with
            its submodules. A function needs `torch.fx.wrap`.
        rule: `Activation((c, C))` for an elementwise function with slopes in [-c, C]; `Linear()`
            for a module that is linear in its input and in its parameters; `Rule()` for an
            operation that does to the sum stream what it does to the activation, such as reshaping
            or averaging.

    Examples:
        >>> class Snake(nn.Module):  # x + sin(x)^2 has slopes in [0, 2]
        ...     def forward(self, x):
        ...         return x + torch.sin(x) ** 2
        >>> add_rule(Snake, Activation((0.0, 2.0)))
    """
    RULES[target] = rule


def is_known(module: nn.Module) -> bool:
    """Return whether the class of a module has a rule; a trace keeps such a module whole."""
    return type(module) in RULES


def find_rules(network: fx.GraphModule, local: bool = False) -> dict[fx.Node, Rule | str]:
    """Find the rule of each node of a graph that carries streams: from the image to the output.

    Args:
        network: A traced network, as `dmn.graph.trace` returns it.
        local: Whether coefficients may be held at the image. The network has marks then, which
            `hold_coefficients` sets.

    Returns:
        By node its rule, or the reason why it has none.
    """
    streams: set[fx.Node] = set()
    rules: dict[fx.Node, Rule | str] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder" and not node.args:
            streams.add(node)
        if takes_streams(node, streams):
            streams.add(node)
            operation = Operation(
                target_of(network, node), node.args, node.kwargs, frozenset(streams)
            )
            rules[node] = find_rule(operation, local)
    if not local:
        return rules
    read = _nodes_that_reach_the_output(network)
    return {node: rule for node, rule in rules.items() if node in read}


def takes_streams(node: fx.Node, streams: Set[fx.Node]) -> bool:
    """Return whether an operation makes streams of others."""
    if node.op == "output" or node.target is hold or node.target in _LIKE or is_query(node):
        return False
    return bool(streams_read(node, streams))


def streams_read(node: fx.Node, streams: Set[fx.Node]) -> set[fx.Node]:
    """Return the streams whose values an operation reads, not only their shape or type."""
    read = node.all_input_nodes
    return {each for each in read[: 1 if node.target in _AS else None] if each in streams}


def _nodes_that_reach_the_output(network: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes with a path to the output on which nothing is held."""
    found = set(network.graph.output_node().all_input_nodes)
    for node in reversed(network.graph.nodes):
        if node in found and node.target is not hold:
            found.update(node.all_input_nodes)
    return found


# Constants of the shape or type of an activation, and methods of constants that take only that.
_LIKE = {
    *(getattr(torch, f"{name}_like") for name in ("zeros", "ones", "full", "empty")),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
}
_AS = {"expand_as", "view_as", "reshape_as", "type_as", "to"}


def find_rule(operation: Operation, local: bool = False) -> Rule | str:
    """Return the rule of an operation, or why it has none; see `find_rules`."""
    target = operation.target
    keys = type(target).__mro__ if isinstance(target, nn.Module) else (target,)
    entry = next((RULES[key] for key in keys if key in RULES), None)
    if entry is None:
        return "no rule; if it is monotone or linear, add one by dmn.rules.add_rule"
    rule = entry if isinstance(entry, Rule) else entry(operation)
    if isinstance(rule, Local) and not local:
        return rule.refusal
    arguments = (*operation.args, *operation.kwargs.values())
    if (
        isinstance(rule, str)
        or isinstance(target, nn.Module)
        or not (rule.weighted or rule.nonlinear)
    ):
        return rule
    if sum(map(operation.is_stream, arguments)) > 1:
        return "its weights, slopes or bounds are activations: a product of two is not monotone"
    return rule
