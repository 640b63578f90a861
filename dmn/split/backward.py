"""The backward pass of a split network, one for all maps of the same images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, fx

from dmn.nn import Reading, Stream, logits_matrix, select_output
from dmn.rules.base import Activation, Signals
from dmn.rules.call import Call
from dmn.rules.scaled import Scaled, halves, is_narrower, power, recentred, rescaling, settle
from dmn.split.forward import ForwardPlan, Values
from dmn.split.relevance import (
    keep_whole,
    stabilise,
    stabilise_p,
    through_activation,
    through_relu,
)


@dataclass(frozen=True)
class StreamGradient:
    """A signal (q, a) in the backward pass, in units of 2**exponent; None for zeros.

    Attributes:
        q: Half the difference of the sensitivities to p and to n. Where a is None, it is the plain
            gradient, computed by autograd only.
        a: Half their sum.
        exponent: Exponent of the unit.
        p_only: Whether n has no sensitivity. Then a is q, and is computed once.
    """

    q: Tensor | None
    a: Tensor | None
    exponent: int = 0
    p_only: bool = False

    def __add__(self, other: StreamGradient) -> StreamGradient:
        """Add where branches meet."""
        exponent = max(self.exponent, other.exponent)
        left, right = self.to(exponent), other.to(exponent)
        q, p_only = _add(left.q, right.q), left.p_only and right.p_only
        return StreamGradient(q, q if p_only else _add(left.a, right.a), exponent, p_only)

    def to(self, exponent: int) -> StreamGradient:
        """Return the same numbers in another unit."""
        return self.times(power(self.exponent - exponent), exponent)

    def times(self, factor: float, exponent: int | None = None) -> StreamGradient:
        """Multiply by a factor, and set the exponent if one is given."""
        exponent = self.exponent if exponent is None else exponent
        q = _times(self.q, factor)
        a = q if self.p_only else _times(self.a, factor)
        return StreamGradient(q, a, exponent, self.p_only)

    def rescaled(self, dtype: torch.dtype | None = None) -> StreamGradient:
        """Bring the largest magnitude near 1 if it is far from it, in a type if one is given."""
        if self.a is None:
            return self
        parts = [part for part in (self.q, self.a) if part is not None]
        return self.to(rescaling(parts, self.exponent, dtype))

    def fitting(self, dtype: torch.dtype) -> StreamGradient:
        """Return this signal in a unit in which a cast does not overflow."""
        if self.a is None or not is_narrower(dtype, self.a.dtype):
            return self
        return self.rescaled(dtype)

    def sensitivities(self) -> tuple[Tensor, Tensor]:
        """Return the sensitivities to p and to n, in the unit of this signal."""
        q, a = self.q, self.a
        if q is None:
            assert a is not None, "a signal has q or a"
            return a, a
        return (q, -q) if a is None else (a + q, a - q)


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
_SEPARATE = Layout(((0.5, 0.5), (-0.5, 0.5)), {"g": (1, 0), "h": (0, 1), "g-h": (1, -1)})


def backward(
    plan: ForwardPlan,
    values: Values,
    target: Tensor,
    streams: Collection[Stream],
    alpha: Callable[[fx.Node], float],
) -> dict[fx.Node, dict[Stream, Reading]]:
    """Propagate sensitivities from the chosen logits back to the nodes to be read.

    Args:
        plan: The plan of the forward pass.
        values: What the forward pass stored; the recorded operations are consumed.
        target: Class indices (B,).
        streams: Which sides to read.
        alpha: The shift before each nonlinear operation; not called if alpha is "balanced".
    """
    output = values.u[plan.output]
    logits = logits_matrix(output, type(plan.network).__name__, len(target))
    weights = select_output(logits, target, plan.config.output).view_as(output)
    layout = _layout(plan, streams)
    starts = [_start_gradient(weights, q, a) for q, a in layout.starts]
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
            for source, incoming in _step(plan, node, call, gradients, alpha):
                if source in plan.active or source in plan.read:
                    waiting = pending.get(source)
                    pending[source] = (
                        incoming
                        if waiting is None
                        else [a + b for a, b in zip(waiting, incoming, strict=True)]
                    )
    return readings


def _layout(plan: ForwardPlan, streams: Collection[Stream]) -> Layout:
    single = next(iter(streams)) if len(set(streams)) == 1 else None
    if plan.relevance:
        return _SINGLE_STREAM[single] if single in ("g", "h") else _SEPARATE
    return _SINGLE_STREAM[single] if single and plan.config.alpha != "balanced" else _COMMON


def _step(
    plan: ForwardPlan,
    node: fx.Node,
    call: Call,
    gradients: list[StreamGradient],
    alpha: Callable[[fx.Node], float],
) -> list[tuple[fx.Node, list[StreamGradient]]]:
    """Propagate signals back through one operation; returns them for each input node."""
    rule = plan.rules[node]
    if rule.nonlinear and not plan.relevance:
        gradients = _shifted(plan, gradients, alpha(node))
    arrived: list[list[StreamGradient]] = [[] for _ in call.slots]
    for gradient in (gradient.fitting(call.dtypes[0]) for gradient in gradients):
        if plan.relevance:
            q, a, p_only = _step_relevance(plan, node, call, gradient)
        else:
            (q, a), p_only = rule.back(call, gradient.q, gradient.a), False
        for slot, signals in enumerate(arrived):
            arriving = StreamGradient(
                _signal_at(q, slot), _signal_at(a, slot), gradient.exponent, p_only
            )
            signals.append(arriving.rescaled() if rule.weighted else arriving)
    return list(zip(call.slots, arrived, strict=True))


def _step_relevance(
    plan: ForwardPlan, node: fx.Node, call: Call, gradient: StreamGradient
) -> tuple[Signals, Signals, bool]:
    """Propagate relevance back through one operation; returns q, a, and whether n has none."""
    rule, q, a, p_only = plan.rules[node], gradient.q, gradient.a, gradient.p_only
    if q is None or a is None:
        return *rule.back(call, q, a), False
    if isinstance(rule, Activation):
        if rule.is_relu and plan.recentring == (0.0, 0.0):
            halves_p = [through_relu(call, q, a)]
            return halves_p, halves_p, True
        q, a = through_activation(rule, call, q, a, plan.recentring)
        return [q], [a], False
    if rule.weighted and p_only:
        q = a = stabilise_p(call, q, plan.config.epsilon)
    elif rule.weighted:
        q, a = stabilise(call, q, a, plan.config.epsilon)
    elif rule.nonlinear:
        q, a = keep_whole(call, q, a, plan.recentring)
        p_only = False
    if p_only and plan.without_n.issuperset(call.slots):
        # The inputs have no n, so only p's sensitivity, q + a, is needed.
        halves_p = rule.p_back(call, q)
        return halves_p, halves_p, True
    return *rule.back(call, q, a), False


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
    if q == a:
        return StreamGradient(first, first, p_only=True)
    return StreamGradient(first, weights * a if a else None)


def _signal_at(signals: list[Tensor] | None, slot: int) -> Tensor | None:
    return None if signals is None else signals[slot]


def _times(signal: Tensor | None, factor: float) -> Tensor | None:
    return signal if signal is None or factor == 1 else signal * factor


def _add(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right
