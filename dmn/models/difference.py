"""A classifier trained as the difference of two monotone networks."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dmn.errors import DmnError
from dmn.explain.split import SPLIT_METHODS, SplitExplainer
from dmn.explain.stream import explaining, read_stream
from dmn.explain.target import Target
from dmn.nn import Backward, Inverted, Paired, Plain, Reading, UnknownLayerError, View

Inputs = Literal["paired", "inverted", "plain"]

_VIEWS: dict[Inputs, tuple[type[View], type[View]]] = {
    "paired": (Paired, Paired),
    "inverted": (Plain, Inverted),
    "plain": (Plain, Plain),
}


class UnknownMethodError(DmnError, ValueError):
    """A method by which a pair does not explain itself; names those by which it does."""


class _Side(nn.Module):
    """One network behind its view of the image."""

    def __init__(self, view: View, net: nn.Module) -> None:
        super().__init__()
        self.input, self.net = view, net

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(self.input(x))
        return output


class DifferenceOfMonotone(nn.Module):
    """f(x) = g(x) - h(x), with g and h monotone in what they see of x.

    Args:
        g: Evidence network, from a view of the image to one number a class.
        h: Counter-evidence network, likewise.
        inputs: What they see: "paired", both `[x, 1 - x]`; "inverted", g the image and h its
            complement `1 - x`; "plain", both the image.
        margin: Pixels of background the views add on each side, in place of the first
            convolution's padding; 0 for networks without convolutions.

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026 (inverted); the paired form is ours.
    """

    def __init__(
        self, g: nn.Module, h: nn.Module, inputs: Inputs = "paired", margin: int = 1
    ) -> None:
        super().__init__()
        view_g, view_h = (view(margin) for view in _VIEWS[inputs])
        self.g, self.h = _Side(view_g, g), _Side(view_h, h)
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, K)."""
        logits: Tensor = self.g(x) - self.h(x)
        return logits

    @property
    def layers(self) -> tuple[str, ...]:
        """Names a map can be read at: "input", and the layers that both g and h have."""
        names = [name for name, _ in self.g.net.named_modules() if name]
        shared = {name for name, _ in self.h.net.named_modules()}
        return ("input", *(name for name in names if name in shared))

    def read(
        self, x: Tensor, target: Tensor, layer: str, backward: Backward = "gradient"
    ) -> tuple[Reading, Reading]:
        """Read g's and h's side of a layer; see `dmn.nn.Pair`."""
        if layer not in self.layers:
            raise UnknownLayerError(f"no layer {layer!r}; there are {', '.join(self.layers)}")
        with explaining(self):
            return (
                self._read_side(self.g, x, target, layer, backward),
                self._read_side(self.h, x, target, layer, backward),
            )

    def explain(
        self, x: Tensor, target: Target = None, method: str = "splitcam", **options: Any
    ) -> Tensor:
        """Explain images by this network itself.

        Args:
            x: Images (B, C, H, W) in [0, 1].
            target: Class index, one an image, or None for the predicted class.
            method: "splitcam", "splitgrad" or "splitlrp".
            **options: Of the method: `layer`, `stream`.

        Returns:
            Maps (B, 1, H, W), float32; positive speaks for the target.

        Raises:
            UnknownMethodError: names the methods that there are.
            UnknownLayerError: names the layers that there are.
        """
        if method not in SPLIT_METHODS:
            raise UnknownMethodError(f"no method {method!r}; there are {', '.join(SPLIT_METHODS)}")
        explainer: SplitExplainer = SPLIT_METHODS[method](self, **options)
        return explainer(x, target)

    def _read_side(
        self, side: _Side, x: Tensor, target: Tensor, layer: str, backward: Backward
    ) -> Reading:
        path = "input" if layer == "input" else f"net.{layer}"
        values, sensitivities = read_stream(side, x, target, path, backward)
        if values.dim() != 4:
            raise UnknownLayerError(f"layer {layer!r} holds no image, {tuple(values.shape)}")
        channels = values.shape[1]
        if layer == "input":
            crop = (-self.margin,) * 4
            values, sensitivities = F.pad(values, crop), F.pad(sensitivities, crop)
            channels = x.shape[1]  # the image is the part p, a complement beside it the part n
        p, n = values.tensor_split([channels], dim=1)
        return Reading(p, n, *sensitivities.tensor_split([channels], dim=1))
