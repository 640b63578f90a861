"""A penalty that makes a network explain itself better while it trains."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.errors import DataError, UnknownNameError
from dmn.models import DifferenceOfMonotone
from dmn.nn import Stream, check_layers, eval_mode, select_output
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

    def __call__(self, net: nn.Module, batch: Any, logits: Tensor) -> Tensor:
        """Return the penalty, averaged over the share of the batch."""
        count = math.ceil(self.share * len(logits))
        x, y, *masks = (values[:count] for values in batch[:3])
        with torch.autocast(x.device.type, enabled=False), eval_mode(net):
            maps = evidence(net, x, y, self.layer, self.stream).float()
            clue = _CLUES[self.objective](maps, masks)
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
        known = ("input", *(name for name, _ in net.named_modules() if name))
        check_layers([layer], known, known)
        path = layer if layer == "input" else f"net.{layer}"
        return _evidence(nn.Sequential(OrderedDict(input=nn.Identity(), net=net)), x, y, path)
    check_layers([layer], net.layers, net.layers)
    sides = {"g": [net.g], "h": [net.h]}.get(stream, [net.g, net.h])
    seen = net.front(x)
    maps, *others = (_evidence(side, seen, y, net.path(layer)) for side in sides)
    difference = maps - others[0] if others else maps
    return F.pad(difference, (-net.margin,) * 4) if layer == net.sees else difference


def _evidence(side: nn.Module, x: Tensor, y: Tensor, path: str) -> Tensor:
    """Read a module of a network."""
    module = side.get_submodule(path)
    kept: list[Tensor] = []
    with module.register_forward_hook(lambda *seen: kept.append(seen[-1])):
        logits: Tensor = side(x.clone().requires_grad_())
    values = kept[-1]
    if values.dim() != 4:
        raise UnknownNameError(
            f"layer {path.removeprefix('net.')!r} holds no image, {tuple(values.shape)}"
        )
    chosen = (logits * select_output(logits, y, "class")).sum()
    (sensitivities,) = torch.autograd.grad(chosen, values, create_graph=True)
    return (values * sensitivities).sum(dim=1, keepdim=True)


def _resized(maps: Tensor, masks: list[Tensor]) -> Tensor:
    if not masks:
        raise DataError(
            "objective 'mask' needs training batches with masks, as dmn.data.MNIST and Scenes have "
            "them and these data do not; objective 'sparseness' needs none"
        )
    return F.adaptive_max_pool2d(masks[0].to(maps), (maps.shape[2], maps.shape[3]))


def _none(maps: Tensor, masks: list[Tensor]) -> None:
    return None


_CLUES: Mapping[Objective, Callable[[Tensor, list[Tensor]], Tensor | None]] = {
    "mask": _resized,
    "sparseness": _none,
}
