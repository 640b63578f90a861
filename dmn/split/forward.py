"""The forward pass of a split network: u always, s only where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from dmn.graph.trace import target_of
from dmn.nn import BackwardConfig
from dmn.rules.base import Activation, Rule
from dmn.rules.call import Call
from dmn.rules.local import Local, hold
from dmn.rules.norms import Scaling
from dmn.rules.scaled import Scaled, aligned, is_narrower, power, recentred
from dmn.split.relevance import Elementwise, automatic_shift, relu_share
from dmn.split.shift import NORM_ALPHA, Chains, Resolution, shift_at


class Values(NamedTuple):
    """What a forward pass stores.

    Attributes:
        u: Original activation, of the nodes to be read and of the output.
        s: Sum stream, recentred, of those of these nodes that need one.
        calls: Recorded operations of the backward pass.
        held: Coefficients, by the node that marks them.
    """

    u: dict[fx.Node, Tensor]
    s: dict[fx.Node, Scaled]
    calls: dict[fx.Node, Call]
    held: dict[fx.Node, Any]


class ForwardPlan:
    """A plan of what to compute to read some nodes of a split network.

    Args:
        network: The network as a graph.
        rules: The rule of each node that holds a stream, by the node's name.
        config: The backward pass; theta, threshold and pool must not be None.
        read: Nodes to be read in the backward pass.
        sums: Further nodes whose sum stream is needed.
        compile: Whether elementwise operations of relevance are fused by `torch.compile`.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        rules: Mapping[str, Rule],
        config: BackwardConfig,
        read: Collection[fx.Node] = (),
        sums: Collection[fx.Node] = (),
        compile: bool = False,
    ) -> None:
        self.network, self.config, self.read, self.sums = network, config, set(read), set(sums)
        self.nodes = [node for node in network.graph.nodes if node.op != "output"]
        (self.output,) = network.graph.output_node().all_input_nodes
        self.image = next(n for n in self.nodes if n.op == "placeholder" and not n.args)
        self.rules = {
            node: rules[node.name].for_pool(config.pool or "winner")
            for node in self.nodes
            if node.name in rules
        }
        self.active: set[fx.Node] = set()
        for node in self.rules:
            if any(source in self.active or source in self.read for source in node.all_input_nodes):
                self.active.add(node)
        self.elementwise = Elementwise(self.recentring, config.epsilon, compile)
        self.without_n = self._find_without_n()
        self.shift = self._find_shift()
        self.shifted = {
            node for node in self.active if self.relevance and self.rules[node].nonlinear
        }
        self.before, self.after = self._plan_sums()
        self.last_users = self._plan_memory()

    @property
    def relevance(self) -> bool:
        """Whether the backward pass propagates relevance."""
        return self.config.backward == "relevance"

    @property
    def recentring(self) -> tuple[float, float]:
        """Theta and threshold of recentring."""
        return float(self.config.theta or 0.0), float(self.config.threshold or 0.0)

    def is_plain_relu(self, node: fx.Node) -> bool:
        """Return whether a node is a ReLU of which nothing is kept but u."""
        return self.rules[node].is_relu and self.recentring == (0.0, 0.0)

    def forward(self, x: Tensor, s: Tensor | None = None, held_at: Values | None = None) -> Values:
        """Run the network on images; returns what reading and the backward pass need.

        Args:
            x: Images, p - n of the input's streams.
            s: Their p + n; None for |x|, the least there is.
            held_at: What a pass of a plan that reads the input stored; coefficients are held at
                its images. None for those of x.
        """
        values = Values({}, {}, {}, {})
        resolution = Resolution(self.image, x)
        env: dict[fx.Node, Any] = {}
        sums: dict[fx.Node, Scaled] = {}
        for node in self.nodes:
            if node in self.rules:
                call = self._bind(node, env)
                rule = self.rules[node]
                if held_at and isinstance(rule, Local):
                    call.held = rule.coefficients(held_at.calls[node])
                env[node] = self._run(node, call, env, sums, resolution)
                resolution.add(node, rule, call.slots, env[node])
                if node in self.active:
                    values.calls[node] = call
            elif held_at and node in held_at.held:
                env[node] = held_at.held[node]
            else:
                env[node] = self._constant(node, env, x)
                if node.target is hold:
                    values.held[node] = env[node]
                if node in self.after:
                    sums[node] = Scaled(x.abs() if s is None else s)
            if node in self.read or node in self.sums or node is self.output:
                values.u[node] = env[node]
                if node in sums:
                    values.s[node] = sums[node]
            for freed in self.last_users.get(node, ()):
                env.pop(freed, None)
                sums.pop(freed, None)
        return values

    def _find_without_n(self) -> set[fx.Node]:
        """Find the nodes whose stream n is zero: after ReLU with nothing kept, and what follows."""
        without_n: set[fx.Node] = set()
        for node, rule in self.rules.items():
            sources = set(self._sources(node))
            stays_without_n = rule.symmetric and sources <= without_n
            if stays_without_n or self.is_plain_relu(node):
                without_n.add(node)
        return without_n

    def _find_shift(self) -> Callable[[fx.Node], Any]:
        """Return a function from the end of a chain to its shift."""
        alpha: Any = self.config.alpha
        if isinstance(alpha, tuple) and isinstance(alpha[0], tuple):
            alpha = dict(alpha)
        last = self.config.head_alpha
        if not self.relevance:
            last = alpha[1] if isinstance(alpha, tuple) else alpha
        norms = NORM_ALPHA if self.relevance else None
        return shift_at(Chains(self.nodes, self.rules, self.output), alpha, last, norms)

    def _plan_sums(self) -> tuple[set[fx.Node], set[fx.Node]]:
        """Find the nodes whose sum stream is needed before, and after recentring."""
        forgets = self.recentring == (0.0, 0.0)  # after recentring s is |u|
        before, after = set(), set(self.sums)
        if not forgets or self.relevance:
            after |= self.read
        for node in self.shifted:
            plain = self.is_plain_relu(node)
            if not isinstance(self.rules[node], Activation | Scaling):
                before.add(node)
            if not plain or self.shift(node) != 0.5:
                after.update(self._sources(node))
        for node in reversed(self.nodes):
            if node in self.rules and node not in self.without_n:
                if node in after and not (forgets and self.rules[node].nonlinear):
                    before.add(node)
                if node in before:
                    after.update(self._sources(node))
        return before, after

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes with streams that a node takes."""
        return [
            source
            for source in node.all_input_nodes
            if source in self.rules or (source.op == "placeholder" and not source.args)
        ]

    def _plan_memory(self) -> dict[fx.Node, list[fx.Node]]:
        """Find the nodes whose values can be freed after each node."""
        last_users: dict[fx.Node, list[fx.Node]] = {}
        sources: set[fx.Node] = set()
        for node in reversed(self.nodes):
            for source in {*node.all_input_nodes} - sources:
                sources.add(source)
                last_users.setdefault(node, []).append(source)
        return last_users

    def _bind(self, node: fx.Node, env: dict[fx.Node, Any]) -> Call:
        streams = self._sources(node)
        return Call(target_of(self.network, node), node.args, node.kwargs, env, streams)

    def _run(
        self,
        node: fx.Node,
        call: Call,
        env: dict[fx.Node, Any],
        s: dict[fx.Node, Scaled],
        resolution: Resolution,
    ) -> Tensor:
        rule = self.rules[node]
        u = [env[source] for source in call.slots]
        if isinstance(rule, Local):
            out = call(*u) if call.held is None else rule.affine(call, *u)
            call.u = u
        else:
            out = call.record(u) if self._is_recorded(node, call) else call(*u)
        call.out_shape = out.shape
        if node in self.without_n:
            s[node] = Scaled(out)
        elif node in self.before:
            parts, exponent = aligned([_fitting(s[source], out.dtype) for source in call.slots])
            total = Scaled(rule.sums(call, u, out, parts, power(-exponent)), exponent)
            s[node] = total.rescaled() if rule.weighted or rule.nonlinear else total
        if node in self.shifted:
            self._prepare_relevance(node, call, u[0], out, s, resolution)
        if rule.nonlinear and node in self.after - self.without_n:
            s[node] = recentred(s[node], out, *self.recentring) if node in s else Scaled(out.abs())
        return out

    def _is_recorded(self, node: fx.Node, call: Call) -> bool:
        """Return whether autograd goes back through an operation."""
        return node in self.active and (
            not self.relevance or self.rules[node].needs_recording(call)
        )

    def _prepare_relevance(
        self,
        node: fx.Node,
        call: Call,
        u: Tensor,
        out: Tensor,
        s: dict[fx.Node, Scaled],
        resolution: Resolution,
    ) -> None:
        """Store what relevance needs to go back through an operation that is not linear."""
        (source,) = call.slots
        alpha = self.shift(node)
        if alpha == "auto":
            alpha = automatic_shift(resolution.pixels(source))
        call.k = 1.0 - 2.0 * alpha
        if self.is_plain_relu(node):
            sums = s[source] if call.k else None
            call.share = relu_share(u, out, sums, call.k, self.config.epsilon)
        else:
            call.u, call.s_in = [u], s[source]
            if node in self.before:
                call.out, call.s = out, s[node]

    def _constant(self, node: fx.Node, env: dict[fx.Node, Any], x: Tensor) -> Any:
        """Evaluate a node without a rule: the input, a parameter, a size, or a number."""
        if node.op == "placeholder":
            return node.args[0] if node.args else x
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.network)
        return Call(target_of(self.network, node), node.args, node.kwargs, env, ())()


def _fitting(s: Scaled, dtype: torch.dtype) -> Scaled:
    """Return a sum stream in a unit in which a cast does not overflow."""
    return s.rescaled(dtype) if is_narrower(dtype, s.tensor.dtype) else s
