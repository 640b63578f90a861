"""A trained network as a difference of two monotone ones, the same function bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from dmn.certify import Bounds
from dmn.errors import UnknownNameError
from dmn.explain.methods import explain
from dmn.explain.target import Target
from dmn.graph.trace import Traced
from dmn.nn import (
    GRADIENT,
    BackwardConfig,
    Grid,
    Pool,
    Reading,
    Stream,
    check_layers,
    check_numbers,
    check_rank,
    eval_mode,
    logits_matrix,
    misfits_explained,
    predict_logits,
)
from dmn.rules.base import Rule
from dmn.rules.linear import SLACK, Linear, bounds
from dmn.rules.scaled import Scaled, halves
from dmn.split.backward import backward
from dmn.split.bounds import stream_bounds
from dmn.split.certificate import Certificate, certify
from dmn.split.elementwise import check_compiler
from dmn.split.forward import ForwardPlan, Values
from dmn.split.held import held_operations
from dmn.split.layers import find_cam_layer, find_grids, read_images
from dmn.split.options import complete


class SplitModel(nn.Module):
    """A trained network as f = g - h, made by `dmn.split.split`.

    It predicts what the original does, bit for bit. It explains itself by `model.explain(x)`, or by
    any explainer of `dmn.explain`. Inside, it carries u = p - n, the original's activation, and
    s = p + n.

    Attributes:
        network: The original's operations, as a graph.
        name: Name of the original's class.
        classes: Names of the classes, if the original has an attribute `classes`.
        options: The network's own form of max pooling, theta and threshold.
        held: What is held at the image, by the module that has it as a coefficient; empty if g and
            h are monotone everywhere.
        head: The softmax at the end of the original that was left out; None if there is none.
        certified: The last certificate; None before `certificate`.
        cam_layer: The layer that SplitCAM reads by default: the last whose sides are at least a
            quarter of the image's or, if there are tokens and all grids are coarser, as in most
            ViTs, the last of the finest grid. Tokens without effect on the example's logit do not
            count. "input" before `find_image_layers`.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x = torch.rand(2, 1, 8, 8)
        >>> model = split(net, x)
        >>> model.layers
        ('input', '0', '1')
        >>> torch.allclose(model.g(x) - model.h(x), net(x), atol=1e-5)
        True
        >>> model.explain(x, method="SplitLRP").shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        traced: Traced,
        rules: Mapping[str, Rule],
        *,
        pool: Pool,
        theta: float,
        threshold: float,
    ) -> None:
        super().__init__()
        self.network = traced.network
        self._rules = dict(rules)
        self.held = held_operations(traced, rules)
        self._nodes = {
            name: node.name
            for name, node in traced.layers.items()
            if name == "input" or node.name in rules
        }
        self._images: tuple[str, ...] | None = None
        self._grids: dict[torch.Size, dict[str, Grid]] = {}  # by the shape of an image
        self.cam_layer = "input"
        self._original: Callable[[], nn.Module | None] = _no_original
        self.name = type(traced.network).__name__
        self.classes: tuple[str, ...] = ()
        self.head: nn.Module | None = None
        self.certified: Certificate | None = None
        self._compiled: bool = False
        self.options = BackwardConfig(pool=pool, theta=theta, threshold=threshold)
        complete(self.options, self.options)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W); returns the original's logits (B, K)."""
        return predict_logits(self.network, x)

    def train(self, mode: bool = True) -> SplitModel:
        """Stay in eval mode, the only mode that is split."""
        return super().train(False)

    def compile(self) -> None:
        """Let `torch.compile` fuse the elementwise operations of SplitLRP.

        It pays where activations are not ReLU, as in ConvNeXts. Predictions stay as they are, bit
        for bit, and maps differ by rounding. The first map takes about a minute more.

        Raises:
            UnsupportedError: if there is no compiler.
        """
        check_compiler()
        self._compiled = True

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be read; only images, if an example was given."""
        return tuple(self._nodes) if self._images is None else self._images

    @property
    def bound_slack(self) -> list[nn.Parameter]:
        """The slacks, in the shapes of weights and biases; empty before `relax_bounds`."""
        named = self.network.named_parameters()
        return [parameter for name, parameter in named if name.endswith(SLACK)]

    @torch.inference_mode(False)
    def relax_bounds(self) -> None:
        """Propagate s by V = |W| (1 + slack) in place of |W|, and freeze W; slacks start at 0.

        For any slack >= 0 the predictions stay the same, bit for bit, and the claims about g and h
        hold. Maps can be differentiated by the slacks that require a gradient.
        """
        self.network.requires_grad_(False)
        for node in self.network.graph.nodes:
            if node.op == "call_module" and isinstance(self._rules.get(node.name), Linear):
                module = self.network.get_submodule(str(node.target))
                for path in bounds(module):
                    owner, _, name = path.rpartition(".")
                    slack = torch.zeros_like(module.get_parameter(path))
                    parameter = nn.Parameter(slack, requires_grad=False)
                    module.get_submodule(owner).register_parameter(name + SLACK, parameter)

    def g(self, x: Tensor) -> Tensor:
        """Return the evidence for each class, (B, K); infinite where it overflows."""
        return self._evidence(x, 0)

    def h(self, x: Tensor) -> Tensor:
        """Return the evidence against each class, (B, K); infinite where it overflows."""
        return self._evidence(x, 1)

    def find_image_layers(self, example: Tensor) -> None:
        """Find the layers whose outputs are images, and the one that SplitCAM reads by default."""
        self._grids = {}
        grids = self._find_grids(example)
        self._images = tuple(grids)
        self.cam_layer = find_cam_layer(self, self.network, self._nodes, grids, example)

    def magnitudes(self, x: Tensor) -> dict[str, Scaled]:
        """Return the largest p + n of every layer, in units of a power of two."""
        plan = self._plan(GRADIENT, (), sums=self._nodes)
        values = self._forward(plan, x)
        nodes = self._nodes_by_name()
        sums = {layer: values.s[nodes[name]] for layer, name in self._nodes.items()}
        return {layer: Scaled(s.tensor.max(), s.exponent) for layer, s in sums.items()}

    def claims(self, x: Tensor) -> tuple[bool, bool]:
        """Return whether g and h are monotone, and whether convex, in the streams of the input."""
        plan = self._plan(GRADIENT, ["input"])
        values = self._forward(plan, x)
        preserved = [rule.preserves(values.calls[node]) for node, rule in plan.rules.items()]
        literal = self.options.theta == 1
        return literal and all(m for m, _ in preserved), literal and all(
            m and c for m, c in preserved
        )

    def ends(self, p: Tensor, n: Tensor, image: Tensor | None = None) -> tuple[Scaled, Scaled]:
        """Return g and h, in units of a power of two, as functions of the input's streams.

        If the certificate says so, they are monotone in the streams. They are not monotone in the
        image p - n.

        Args:
            p: Positive stream of the image (B, C, H, W), >= 0.
            n: Negative stream, of the same shape, >= 0.
            image: Where coefficients are held; by default at p - n.
        """
        plan = self._plan(GRADIENT, (), sums=["output"])
        held_at = None if image is None else self._hold(image)
        values = self._forward(plan, p - n, p + n, held_at)
        s = values.s[plan.output]
        g, h = halves(s, values.u[plan.output])
        return Scaled(g, s.exponent), Scaled(h, s.exponent)

    def bounds(self, low: Tensor, high: Tensor) -> Bounds:
        """Return g(low) - h(high) and g(high) - h(low), of the streams over a box of images.

        They hold up to the network's rounding, and are looser than those of `dmn.certify.bounds`,
        but need no rules beyond those of the split.

        Args:
            low: Lower ends of the box (B, C, H, W).
            high: Upper ends, of the same shape.

        Raises:
            UnsupportedError: if g and h are not monotone in the streams; says why.
        """
        return stream_bounds(self, low, high)

    def local_gradient(self, x: Tensor, target: Tensor) -> Tensor:
        """Return autograd's gradient of the network with its coefficients held at the images.

        Args:
            x: Images (B, C, H, W).
            target: Class indices (B,).
        """
        plan, held_at = self._plan(GRADIENT, ()), self._hold(x)
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            logits = plan.forward(x, held_at=held_at).u[plan.output]
            selected = logits_matrix(logits, self.name, x.shape[0]).gather(1, target[:, None])
            (gradient,) = torch.autograd.grad(selected.sum(), x)
        return gradient

    def certificate(self, x: Tensor, original: nn.Module | None = None) -> Certificate:
        """Measure what holds for this network on images; the result prints as a table.

        Args:
            x: Images (B, C, H, W); a few are enough.
            original: The network that was split; by default the one given to `split`, if it still
                exists.
        """
        check_numbers(x)
        self.certified = certify(self, original or self._original(), x)
        return self.certified

    def read(
        self,
        x: Tensor,
        target: Tensor | None,
        layers: Sequence[str],
        config: BackwardConfig = GRADIENT,
        streams: Collection[Stream] = ("g", "h"),
    ) -> dict[str, dict[Stream, Reading]]:
        """Read layers by one pass forward and one back; see `dmn.nn.Pair`.

        Streams or sensitivities that overflow the dtype are given in units of a power of two, one
        per batch. A map is then right up to that power.
        """
        plan = self._plan(config, layers)
        values = self._forward(plan, x)
        if target is None:
            target = logits_matrix(values.u[plan.output], self.name, x.shape[0]).argmax(dim=1)
        with self._mode():
            readings = backward(plan, values, target.clone(), streams)
        nodes, grids, read = self._nodes_by_name(), self._find_grids(x), {}
        for layer in layers:
            node = nodes[self._nodes[layer]]
            if layer not in grids:
                shape = tuple(values.u[node].shape)
                raise UnknownNameError(f"layer {layer!r} holds no image, {shape}")
            read[layer] = read_images(grids[layer], readings[node])
        return read

    def explain(
        self, x: Tensor, target: Target = None, method: str = "SplitCAM", **options: Any
    ) -> Tensor:
        """Explain images by this network itself; see `dmn.explain.explain`."""
        return explain(self, x, target, method, **options)

    def _nodes_by_name(self) -> dict[str, fx.Node]:
        return {node.name: node for node in self.network.graph.nodes}

    def _plan(
        self, config: BackwardConfig, layers: Collection[str], sums: Collection[str] = ()
    ) -> ForwardPlan:
        check_layers(layers, self._nodes, self.layers)
        nodes = self._nodes_by_name()
        read = [nodes[self._nodes[layer]] for layer in layers]
        (output,) = nodes["output"].all_input_nodes
        sum_nodes = [output if name == "output" else nodes[self._nodes[name]] for name in sums]
        config = self._by_node(complete(config, self.options))
        return ForwardPlan(self.network, self._rules, config, read, sum_nodes, self._compiled)

    def _by_node(self, config: BackwardConfig) -> BackwardConfig:
        """Return shifts that are given by layer by the names of nodes."""
        alphas = config.alpha
        if not isinstance(alphas, tuple) or not isinstance(alphas[0], tuple):
            return config
        check_layers(dict(alphas), self._nodes, self.layers)
        return config._replace(alpha=tuple((self._nodes[name], alpha) for name, alpha in alphas))

    def _hold(self, x: Tensor) -> Values:
        """Return a pass whose coefficients another one can hold."""
        return self._forward(self._plan(GRADIENT, ["input"]), x)

    def _find_grids(self, x: Tensor) -> dict[str, Grid]:
        """Return how layers hold images of this shape, by name; kept for images like them."""
        if x.shape[1:] not in self._grids:
            check_numbers(x)
            with self._mode(), misfits_explained(self.network, x):
                check_rank(self.network, x)
                images = x.clone() if x.is_inference() else x.detach()
                self._grids[x.shape[1:]] = find_grids(self.network, self._nodes, images)
        return self._grids[x.shape[1:]]

    def _forward(
        self, plan: ForwardPlan, x: Tensor, s: Tensor | None = None, held_at: Values | None = None
    ) -> Values:
        check_numbers(x)
        with self._mode(), misfits_explained(self.network, x):
            check_rank(self.network, x)
            return plan.forward(x.clone() if x.is_inference() else x.detach(), s, held_at)

    @contextmanager
    def _mode(self) -> Iterator[None]:
        learning = torch.is_grad_enabled() and any(
            slack.requires_grad for slack in self.bound_slack
        )
        with torch.inference_mode(False), torch.set_grad_enabled(learning), eval_mode(self):
            yield

    def _evidence(self, x: Tensor, side: int) -> Tensor:
        return self.ends(x.clamp(min=0), (-x).clamp(min=0))[side].to(0).tensor


def _no_original() -> None:
    """Return None, for an original that is unknown."""
