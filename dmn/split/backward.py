"""The backward pass of a split network, one for all maps of the same images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, fx

from dmn.nn import OutputSelector, Reading, Stream, logits_matrix, select_output
from dmn.rules.base import Activation, Signals, Slope
from dmn.rules.call import Call
from dmn.rules.norms import Scaling
from dmn.rules.scaled import Scaled, halves, power, recentred, settle
from dmn.split.forward import ForwardPlan, Values
from dmn.split.relevance import keep_whole, rebalance, through_activation, through_scaling
from dmn.split.signal import P_ONLY, StreamGradient


class Layout(NamedTuple):
    """Which signals go back, and how the streams' sensitivities are combined from them.

    Attributes:
        starts: For each signal, q and a at the output, as multiples of the logits' weights.
        streams: For each stream, the factor of each signal.
    """

    starts: tuple[tuple[float, float], ...]
    streams: Mapping[Stream, tuple[float, ...]]


# The plain gradient F goes back by itself wherever it can be separated: in deep networks it is lost
# in what g and h have in common.
_SINGLE_STREAM: dict[Stream, Layout] = {
    "g": Layout(((0.5, 0.5),), {"g": (1,)}),
    "h": Layout(((-0.5, 0.5),), {"h": (1,)}),
    "g-h": Layout(((1, 0),), {"g-h": (1,)}),
}
_COMMON = Layout(((1, 0), (0, 0.5)), {"g": (0.5, 1), "h": (-0.5, 1), "g-h": (1, 0)})


def backward(
    plan: ForwardPlan,
    values: Values,
    target: Tensor,
    streams: Collection[Stream],
) -> dict[fx.Node, dict[Stream, Reading]]:
    """Propagate sensitivities from the chosen logits back to the nodes to be read.

    Args:
        plan: The plan of the forward pass.
        values: What the forward pass stored; the recorded operations are consumed.
        target: Class indices (B,).
        streams: Which sides to read.
    """
    output = values.u[plan.output]
    logits = logits_matrix(output, type(plan.network).__name__, target.shape[0])
    own_start: OutputSelector = "contrast" if plan.relevance and logits.shape[1] > 1 else "class"
    weights = select_output(logits, target, plan.config.output or own_start).view_as(output)
    layout = _layout(plan, streams)
    k = 1 - 2 * plan.shift(plan.output) if plan.relevance else 1.0
    starts = [_start_gradient(weights, q, k * a) for q, a in layout.starts]
    if plan.output in plan.without_n and plan.relevance:
        starts = [start.of_p() for start in starts]
    pending = {plan.output: starts}
    readings: dict[fx.Node, dict[Stream, Reading]] = {}
    for node in reversed(plan.nodes):
        if node not in pending:
            continue
        gradients = pending.pop(node)
        if node in plan.read:
            readings[node] = _read_node(plan, node, values, gradients, layout, streams)
        if node in plan.active:
            call = values.calls.pop(node)
            for source, incoming in _step(plan, node, call, gradients):
                if source in plan.active or source in plan.read:
                    if plan.relevance and source in plan.without_n:
                        incoming = [gradient.of_p() for gradient in incoming]
                    waiting = pending.get(source)
                    pending[source] = (
                        incoming
                        if waiting is None
                        else [a + b for a, b in zip(waiting, incoming, strict=True)]
                    )
    return readings


def _layout(plan: ForwardPlan, streams: Collection[Stream]) -> Layout:
    single = next(iter(streams)) if len(set(streams)) == 1 else None
    return _SINGLE_STREAM[single] if single and plan.config.alpha != "balanced" else _COMMON


def _step(
    plan: ForwardPlan, node: fx.Node, call: Call, gradients: list[StreamGradient]
) -> list[tuple[fx.Node, list[StreamGradient]]]:
    """Propagate signals back through one operation; returns them for each input node."""
    rule = plan.rules[node]
    if rule.nonlinear and not plan.relevance:
        gradients = _shifted(plan, gradients, plan.shift(node))
    arrived: list[list[StreamGradient]] = [[] for _ in call.slots]
    for gradient in (gradient.fitting(call.dtypes[0]) for gradient in gradients):
        ratio: Slope | None = None
        if plan.relevance:
            q, a, ratio = _step_relevance(plan, node, call, gradient)
        else:
            q, a = rule.back(call, gradient.q, gradient.a)
        for slot, signals in enumerate(arrived):
            arriving = StreamGradient(
                _signal_at(q, slot), _signal_at(a, slot), gradient.exponent, ratio
            )
            signals.append(arriving.rescaled() if rule.weighted else arriving)
    return list(zip(call.slots, arrived, strict=True))


def _step_relevance(
    plan: ForwardPlan, node: fx.Node, call: Call, gradient: StreamGradient
) -> tuple[Signals, Signals, Slope | None]:
    """Propagate relevance back through one operation; returns q, a, and a / q."""
    rule = plan.rules[node]
    if rule.nonlinear:
        return _step_nonlinear(plan, node, call, gradient)
    q, ratio = gradient.q, gradient.ratio
    if q is not None and ratio is not None:
        if plan.without_n.issuperset(call.slots):
            return rule.p_back(call, q, ratio), None, P_ONLY
        if (ratio_before := rule.ratio_back(call, ratio)) is not None:
            return rule.difference_back(call, q), None, ratio_before
    written = gradient.written_out()
    return *rule.back(call, written.q, written.a), None


def _step_nonlinear(
    plan: ForwardPlan, node: fx.Node, call: Call, gradient: StreamGradient
) -> tuple[Signals, Signals, Slope | None]:
    """Propagate relevance back through an operation that is not linear, and shift it."""
    if gradient.q is None and gradient.a is None:
        return None, None, None
    rule, k = plan.rules[node], call.k
    if plan.is_plain_relu(node):
        p = gradient.of_p()
        assert p.q is not None, "the sensitivity to p is in q"
        return [p.q * call.share], None, k
    written = gradient.written_out()
    q, a = (
        call.u[0].new_zeros(call.out_shape) if signal is None else signal
        for signal in (written.q, written.a)
    )
    if isinstance(rule, Activation):
        q, a = through_activation(rule, call, q, a, plan.elementwise)
    elif isinstance(rule, Scaling):
        q, a = through_scaling(rule, call, q, a, plan.elementwise)
    else:
        q, a = keep_whole(call, q, a, plan.recentring)
        pulled, spread = rule.back(call, q, a)
        q, a = rebalance(_only(pulled), _only(spread), call.u[0], call.s_in, k, plan.config.epsilon)
    return [q], [a], None


def _only(signals: Signals) -> Tensor:
    """Return the signal of the only stream of an operation that is not linear."""
    assert signals is not None, "a signal that is not zero does not become None"
    (signal,) = signals
    return signal


def _shifted(
    plan: ForwardPlan, gradients: list[StreamGradient], alpha: float
) -> list[StreamGradient]:
    """Multiply a by 1 - 2 alpha or, balanced, bring its mean to rho times that of the gradient."""
    if plan.config.alpha != "balanced":
        factor = 1 - 2 * alpha
        return [
            StreamGradient(
                gradient.q,
                None if not factor or gradient.a is None else gradient.a * factor,
                gradient.exponent,
            )
            for gradient in gradients
        ]
    plain, shared = gradients
    if plain.q is None or shared.a is None:
        return gradients
    target_means, means = (_means(part) for part in (plain.q, shared.a))
    factors = torch.where(means > 0, plan.config.rho * target_means / means, 0.0)
    return [
        plain,
        StreamGradient(shared.q, shared.a * factors * power(-shared.exponent), shared.exponent),
    ]


def _means(x: Tensor) -> Tensor:
    return x.abs().flatten(1).mean(1).view(-1, *[1] * (x.dim() - 1))


def _read_node(
    plan: ForwardPlan,
    node: fx.Node,
    values: Values,
    gradients: list[StreamGradient],
    layout: Layout,
    streams: Collection[Stream],
) -> dict[Stream, Reading]:
    u = values.u[node]
    s = values.s.get(node, Scaled(u.abs()))
    if not plan.relevance and node in plan.rules and not plan.rules[node].nonlinear:
        s = recentred(s, u, *plan.recentring)
    p, n = halves(s, u)
    sensitivities = {}
    for stream in streams:
        parts = [t.times(f) for t, f in zip(gradients, layout.streams[stream], strict=True) if f]
        gradient = sum(parts[1:], parts[0])
        # The factor by which p and n are too large is missing in their sensitivities.
        exponent = gradient.exponent + s.exponent
        sensitivities[stream] = [Scaled(part, exponent) for part in gradient.sensitivities()]
    sides = [stream for stream in sensitivities if stream != "g-h"]
    settled = settle([part for side in sides for part in sensitivities[side]])
    deltas: dict[Stream, list[Tensor]] = {
        side: settled[2 * i : 2 * i + 2] for i, side in enumerate(sides)
    }
    if "g-h" in sensitivities:  # by itself: it may fit where g and h do not
        deltas["g-h"] = settle(sensitivities["g-h"])
    return {stream: Reading(p, n, *deltas[stream]) for stream in streams}


def _start_gradient(weights: Tensor, q: float, a: float) -> StreamGradient:
    first = weights * q if q else None
    return StreamGradient(first, weights * a if a else None)


def _signal_at(signals: list[Tensor] | None, slot: int) -> Tensor | None:
    return None if signals is None else signals[slot]
