"""A penalty that makes a network explain itself better while it trains."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.data import ImageBatch
from dmn.errors import DataError, UnknownNameError
from dmn.explain.read import read_layers
from dmn.models import DifferenceOfMonotone
from dmn.nn import Reading, Stream, check_layers, eval_mode
from dmn.split.learned_bounds import OBJECTIVES
from dmn.train.terms import Term

Objective = Literal["mask", "sparseness"]


class ExplanationPenalty(Term):
    """What the true class's explanation lacks of being good, from 0 (good) to 1.

    It is the explanation that is scored: read in eval mode, of which alone the network is monotone,
    at the running statistics, by a pass of its own in float32. No statistics are changed by it.

    Args:
        objective: "mask", the share of positive evidence within the mask, for data whose training
            batches have masks (`dmn.data.MNIST`, `Scenes`); or "sparseness", Hoyer's, for any.
        weight: What the penalty is multiplied by.
        layer: Where to read; "input" for the image. Of a layer's cells all that touch the mask
            count as within.
        stream: Of a pair: whose evidence, "g", "h" or their difference.
        share: Of each batch that is explained; a half costs half as much.

    Raises:
        DataError: when called; says which data and which objective work.
        UnknownNameError: when called; names the layers that there are.

    Source: Ross, Hughes & Doshi-Velez, Right for the Right Reasons, IJCAI 2017 (input gradients).
    """

    def __init__(
        self,
        objective: Objective = "mask",
        weight: float = 1.0,
        layer: str = "input",
        stream: Stream = "g",
        share: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.objective, self.layer, self.stream, self.share = objective, layer, stream, share

    def __call__(self, net: nn.Module, batch: ImageBatch, logits: Tensor) -> Tensor:
        """Return the penalty, averaged over the share of the batch."""
        x, y, mask = batch.take(slice(math.ceil(self.share * len(logits))))
        with torch.autocast(x.device.type, enabled=False), eval_mode(net):
            maps = evidence(net, x, y, self.layer, self.stream).float()
            clue = _CLUES[self.objective](maps, mask)
            return 1 - OBJECTIVES[self.objective](maps, clue).mean()


def evidence(net: nn.Module, x: Tensor, y: Tensor, layer: str, stream: Stream) -> Tensor:
    """Multiply a layer's activations by their gradients, and sum over the channels (SplitCAM).

    Unlike an explainer's map, it can be differentiated by the weights, and is as large as the
    layer. Of a network that is no pair, it is gradient times input or activation.

    Args:
        net: The network, in eval mode.
        x: Images (B, C, H, W).
        y: Class indices (B,).
        layer: Its output is read; "input" for the image.
        stream: Of a pair: whose logit.

    Returns:
        Maps (B, 1, h, w); positive speaks for the class, in "h" against it.

    Raises:
        UnknownNameError: names the layers that there are.
    """
    if not isinstance(net, DifferenceOfMonotone):
        return _evidence_of_any(net, x, y, layer)
    readings = net.read(x, y, [layer], streams=[stream], create_graph=True)[layer]
    maps = {side: _weighed(reading) for side, reading in readings.items()}
    return maps["g"] - maps["h"] if stream == "g-h" else maps[stream]


def _weighed(reading: Reading) -> Tensor:
    p, n, delta_p, delta_n = reading
    values, sensitivities = torch.cat([p, n], 1), torch.cat([delta_p, delta_n], 1)
    return (values * sensitivities).sum(dim=1, keepdim=True)


def _evidence_of_any(net: nn.Module, x: Tensor, y: Tensor, layer: str) -> Tensor:
    known = ("input", *(name for name, _ in net.named_modules() if name))
    check_layers([layer], known, known)
    path = layer if layer == "input" else f"net.{layer}"
    whole = nn.Sequential(OrderedDict(input=nn.Identity(), net=net))
    ((values, sensitivities),) = read_layers(whole, x, y, [path], create_graph=True)
    if values.dim() != 4:
        raise UnknownNameError(f"layer {layer!r} holds no image, {tuple(values.shape)}")
    return (values * sensitivities).sum(dim=1, keepdim=True)


def _resized(maps: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        raise DataError(
            "objective 'mask' needs training batches with masks, as dmn.data.MNIST and Scenes have "
            "them and these data do not; objective 'sparseness' needs none"
        )
    return F.adaptive_max_pool2d(mask.to(maps), (maps.shape[2], maps.shape[3]))


def _none(maps: Tensor, mask: Tensor | None) -> None:
    return None


_CLUES: Mapping[Objective, Callable[[Tensor, Tensor | None], Tensor | None]] = {
    "mask": _resized,
    "sparseness": _none,
}
