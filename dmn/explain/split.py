"""SplitCAM, SplitGrad and SplitLRP: maps read off a pair f = g - h.

Each gives three maps: evidence (of g), counter-evidence (of h) and their difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.errors import DmnError
from dmn.explain.target import Target, resolve_target
from dmn.nn import Backward, Pair, Reading, UnknownLayerError

Stream = Literal["g", "h", "g-h"]
Part = Literal["p", "n", "p+n", "p-n"]


class UnknownPartError(DmnError, ValueError):
    """A part that a layer does not have."""


class StreamMaps(NamedTuple):
    """The maps of both sides of a pair, each (B, 1, H, W), float32."""

    g: Tensor
    h: Tensor

    def stream(self, name: Stream) -> Tensor:
        """Return one stream's map: evidence, counter-evidence, or their difference."""
        return {"g": self.g, "h": self.h, "g-h": self.g - self.h}[name]


class SplitExplainer:
    """A map of a pair at one layer; subclasses say how a reading becomes a map.

    Args:
        pair: The network as g - h; a trained difference network or a split one.
        layer: Name of the layer to read; "input" for the image.
        stream: "g" for evidence, "h" for counter-evidence, "g-h" for their difference.
        part: Of the layer, "p", "n", their sum or their difference. At a paired input p is the
            image, what ink says, and n its complement, what blank says; elsewhere in a trained
            pair all is p.

    Raises:
        UnknownLayerError: names the layers that there are; when called, for one without image.
        UnknownPartError: when called for a part "n" that the layer does not have.
    """

    backward: ClassVar[Backward] = "gradient"

    def __init__(
        self,
        pair: Pair,
        layer: str = "input",
        stream: Stream = "g-h",
        part: Part = "p+n",
    ) -> None:
        if layer not in pair.layers:
            raise UnknownLayerError(f"no layer {layer!r}; there are {', '.join(pair.layers)}")
        self.pair, self.layer, self.stream, self.part = pair, layer, stream, part

    def __repr__(self) -> str:
        return f"{type(self).__name__} at {self.layer}, part {self.part}"

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images of shape (B, C, H, W); returns maps of shape (B, 1, H, W), float32.

        Positive speaks for the target in the streams g and g-h, and against it in h.
        """
        return self.streams(x, target).stream(self.stream)

    def streams(self, x: Tensor, target: Target = None) -> StreamMaps:
        """Explain by both sides at once, for the cost of one stream each.

        Args:
            x: Images (B, C, H, W).
            target: Class index, one an image, or None for the predicted class.
        """
        classes = resolve_target(self.pair, x, target)
        readings = self.pair.read(x, classes, self.layer, self.backward)
        return StreamMaps(*(self._map(reading, x) for reading in readings))

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Reduce a part's values and sensitivities, both (B, C, h, w), to a map (B, 1, h, w)."""
        raise NotImplementedError

    def _map(self, reading: Reading, x: Tensor) -> Tensor:
        p, n, delta_p, delta_n = reading
        if self.part == "n" and not n.shape[1]:
            raise UnknownPartError(f"layer {self.layer!r} has no part n; only a paired input has")
        sign = -1 if self.part == "p-n" else 1
        values, sensitivities = {
            "p": (p, delta_p),
            "n": (n, delta_n),
        }.get(self.part, (torch.cat([p, n], 1), torch.cat([delta_p, sign * delta_n], 1)))
        return self._to_image(self.reduce(values, sensitivities), x)

    @staticmethod
    def _to_image(values: Tensor, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        if values.shape[-2:] != size:
            values = F.interpolate(values, size, mode="bilinear", align_corners=False)
        return values.float()


class SplitCAM(SplitExplainer):
    """Activation times sensitivity, summed over channels (SplitCAM).

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026.
    """

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Weigh each unit by its sensitivity and sum over the channels."""
        return (values * sensitivities).sum(dim=1, keepdim=True)


class SplitGrad(SplitExplainer):
    """Channel mean of the sensitivities (SplitGrad).

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026.
    """

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Average the sensitivities over the channels."""
        return sensitivities.mean(dim=1, keepdim=True)


class SplitLRP(SplitCAM):
    """Epsilon-LRP on the nonnegative weights of both sides (SplitLRP).

    Relevance is conserved up to what the biases and epsilon = 1e-6 absorb. Where every activation
    is piecewise linear it equals SplitCAM at the same layer; saturating units tell them apart.

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026; the rule is Bach et al. 2015, eq. 58.
    """

    backward = "relevance"


SPLIT_METHODS: dict[str, Callable[..., SplitExplainer]] = {
    "splitcam": SplitCAM,
    "splitgrad": SplitGrad,
    "splitlrp": SplitLRP,
}
