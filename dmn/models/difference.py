"""A classifier trained as the difference of two monotone networks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dmn.certify import Bounds, bounds
from dmn.errors import OptionError, UnknownNameError
from dmn.explain.methods import explain
from dmn.explain.read import eval_mode_with_grad, read_layers
from dmn.explain.target import Target, resolve_target
from dmn.nn import (
    GRADIENT,
    BackwardConfig,
    Inverted,
    Opposed,
    Paired,
    Plain,
    Reading,
    Stream,
    View,
    check_layers,
    select_output,
)

Inputs = Literal["paired", "opposed", "inverted", "plain"]

_VIEWS: dict[Inputs, tuple[type[View], type[View]]] = {
    "paired": (Paired, Paired),
    "opposed": (Opposed, Opposed),
    "inverted": (Plain, Inverted),
    "plain": (Plain, Plain),
}


class _Side(nn.Module):
    """One network after its view of the image."""

    def __init__(self, view: View, net: nn.Module) -> None:
        super().__init__()
        self.input, self.net = view, net

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(self.input(x))
        return output


class DifferenceOfMonotone(nn.Module):
    """A classifier f(x) = g(x) - h(x), with g and h monotone in their views of x.

    g collects evidence for each class and h evidence against it. Both have nonnegative weights, so
    the network can be explained by itself: see `explain`.

    Args:
        g: Evidence network, from a view of the image to one number per class.
        h: Counter-evidence network, from a view of the image to one number per class.
        inputs: The views of g and h: "paired", both `[x, 1 - x]`; "opposed", both `[x, -x]`;
            "inverted", g the image and h its complement `1 - x`; "plain", both the image.
        margin: Pixels of background that the views add on each side, instead of the padding of the
            first convolution; 0 for networks without convolutions.
        front: An ordinary network before both views; its output replaces x above. With inputs
            "opposed" f is still a difference of networks that are monotone in `[x, -x]`, and can be
            read at the pixels; see `dmn.split.FrontAdapter`.

    Attributes:
        sees: Name of the layer that g and h see: "front" if there is a front, else "input".

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026 (inverted); the paired form is ours.

    Examples:
        >>> import torch
        >>> from dmn.models import DifferenceOfMonotone, MonotoneMLP
        >>> g, h = (MonotoneMLP(2 * 8 * 8, hidden=(16,), num_classes=3) for _ in range(2))
        >>> net = DifferenceOfMonotone(g, h, inputs="paired", margin=0)
        >>> x = torch.rand(4, 1, 8, 8)
        >>> net(x).shape
        torch.Size([4, 3])
        >>> net.explain(x, target=2, method="SplitLRP", stream="g").shape  # evidence for class 2
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        g: nn.Module,
        h: nn.Module,
        inputs: Inputs = "paired",
        margin: int = 1,
        front: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.front = nn.Identity() if front is None else front
        self.sees = "input" if front is None else "front"
        view_g, view_h = (view(margin) for view in _VIEWS[inputs])
        self.g, self.h = _Side(view_g, g), _Side(view_h, h)
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, K)."""
        features = self.front(x)
        logits: Tensor = self.g(features) - self.h(features)
        return logits

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers to read: the one that g and h see, and the layers that both have."""
        names = [name for name, _ in self.g.net.named_modules() if name]
        shared = {name for name, _ in self.h.net.named_modules()}
        return (self.sees, *(name for name in names if name in shared))

    def read(
        self,
        x: Tensor,
        target: Tensor | None,
        layers: Sequence[str],
        config: BackwardConfig = GRADIENT,
        streams: Collection[Stream] = ("g", "h"),
        *,
        create_graph: bool = False,
    ) -> dict[str, dict[Stream, Reading]]:
        """Read layers of g and h; see `dmn.nn.Pair`.

        With `create_graph` readings can be differentiated by the weights, also by the front's.
        """
        check_layers(layers, self.layers, self.layers)
        config = config._replace(output=config.output or "class")
        supported = BackwardConfig(config.backward, config.output, config.epsilon)
        unsupported = [
            name
            for name in BackwardConfig._fields
            if getattr(config, name) != getattr(supported, name)
        ]
        if unsupported:
            raise OptionError(
                f"{', '.join(unsupported)}: for split networks only; a trained pair has no shift, "
                "recentring or form of pooling to choose"
            )
        target = resolve_target(self, x, None) if target is None else target
        order: tuple[Stream, ...] = ("g", "h")
        sides = [side for side in order if side in streams or "g-h" in streams]
        with eval_mode_with_grad(self):
            with torch.set_grad_enabled(create_graph):  # nothing is read below g and h
                features = self.front(x)
            start = self._start(features, target, config)
            read = {
                side: self._read_side(side, features, target, layers, config, create_graph, start)
                for side in sides
            }
        return {layer: {side: read[side][layer] for side in read} for layer in layers}

    def explain(
        self, x: Tensor, target: Target = None, method: str = "SplitCAM", **options: Any
    ) -> Tensor:
        """Explain images by this network itself; see `dmn.explain.explain`.

        Args:
            x: Images (B, C, H, W) in [0, 1].
            target: Classes to explain: one for all images, or one per image (B,); None for the
                predicted ones.
            method: Name of a method of kind "split", e.g. "SplitCAM" or "SplitLRP".
            **options: Options of the method.

        Returns:
            Maps (B, 1, H, W).
        """
        return explain(self, x, target, method, **options)

    def bounds(self, low: Tensor, high: Tensor) -> Bounds:
        """Return bounds of each logit for all images between two; see `dmn.certify.bounds`.

        They are exact with inputs "inverted" and no front. Otherwise they hold, and can be loose.

        Args:
            low: Lower ends of the box (B, C, H, W).
            high: Upper ends, of the same shape.
        """
        return bounds(self, low, high)

    @torch.no_grad()
    def _start(self, features: Tensor, target: Tensor, config: BackwardConfig) -> Tensor | None:
        """Return the weights of the logits, (B, K), where they depend on those of both sides."""
        if config.output not in ("clrp", "sglrp"):
            return None
        return select_output(self.g(features) - self.h(features), target.clone(), config.output)

    def _read_side(
        self,
        side: str,
        x: Tensor,
        target: Tensor,
        layers: Sequence[str],
        config: BackwardConfig,
        create_graph: bool,
        start: Tensor | None,
    ) -> dict[str, Reading]:
        network = self.get_submodule(side)
        paths = ["input" if layer == self.sees else f"net.{layer}" for layer in layers]
        read = read_layers(network, x, target, paths, config, create_graph, start)
        return {
            layer: self._reading(layer, x, network.get_submodule("input"), *values)
            for layer, values in zip(layers, read, strict=True)
        }

    def _reading(
        self, layer: str, x: Tensor, view: Any, values: Tensor, sensitivities: Tensor
    ) -> Reading:
        if values.dim() != 4:
            raise UnknownNameError(f"layer {layer!r} holds no image, {tuple(values.shape)}")
        channels = values.shape[1]
        if layer == self.sees:
            values, sensitivities = view.crop(values), view.crop(sensitivities)
            channels = x.shape[1]  # x is the part p, a complement beside it the part n
        p, n = values.tensor_split([channels], dim=1)
        return Reading(p, n, *sensitivities.tensor_split([channels], dim=1))
