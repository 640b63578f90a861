"""A training penalty that improves a network's own explanations."""

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
    """A term of the loss that penalises bad explanations of the true class, from 0 (good) to 1.

    The explanation is computed by a separate pass in float32 and eval mode, with the running
    statistics, because the network is monotone only in eval mode. No statistics are changed.

    Args:
        objective: "mask", the share of positive evidence inside the mask, for data whose training
            batches have masks (`dmn.data.MNIST`, `Scenes`); or "sparseness" (Hoyer's), for any
            data.
        weight: Factor of the penalty.
        layer: Where to read the explanation; "input" for the image. All positions of a layer that
            touch the mask count as inside.
        stream: For a pair: the evidence of "g", "h" or their difference.
        share: Share of each batch that is explained; half of it costs half as much.

    Raises:
        DataError: when called with batches without masks, if the objective needs them.
        UnknownNameError: when called, if there is no such layer; lists those that exist.

    Source: Ross, Hughes & Doshi-Velez, Right for the Right Reasons, IJCAI 2017 (input gradients).

    Examples:
        >>> import dmn
        >>> from dmn.data import MNIST
        >>> from dmn.train import ClassificationTask, ExplanationPenalty
        >>> data = MNIST(batch_size=8)
        >>> data.setup("fit")
        >>> batch, net = next(iter(data.train_dataloader())), dmn.load("mnist_paired").model
        >>> penalty = ExplanationPenalty("mask", weight=0.5)
        >>> 0 <= penalty(net, batch, net(batch.image)).item() <= 1
        True
        >>> task = ClassificationTask(net, terms={"mask": penalty})  # logs train/mask
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
            objective_input = _OBJECTIVE_INPUTS[self.objective](maps, mask)
            return 1 - OBJECTIVES[self.objective](maps, objective_input).mean()


def evidence(net: nn.Module, x: Tensor, y: Tensor, layer: str, stream: Stream) -> Tensor:
    """Multiply a layer's activations by their gradients, and sum over the channels (SplitCAM).

    Unlike an explainer's map, it is differentiable with respect to the weights, and has the size of
    the layer. For a network that is not a pair, it is gradient times input or activation.

    Args:
        net: The network, in eval mode.
        x: Images (B, C, H, W).
        y: Class indices (B,).
        layer: The layer whose output is read; "input" for the image.
        stream: For a pair: the part whose logit is explained.

    Returns:
        Maps (B, 1, h, w); positive values are evidence for the class, in "h" against it.

    Raises:
        UnknownNameError: if there is no such layer; lists those that exist.
    """
    if not isinstance(net, DifferenceOfMonotone):
        return _input_gradient_evidence(net, x, y, layer)
    readings = net.read(x, y, [layer], streams=[stream], create_graph=True)[layer]
    maps = {side: _product(reading) for side, reading in readings.items()}
    return maps["g"] - maps["h"] if stream == "g-h" else maps[stream]


def _product(reading: Reading) -> Tensor:
    p, n, delta_p, delta_n = reading
    values, sensitivities = torch.cat([p, n], 1), torch.cat([delta_p, delta_n], 1)
    return (values * sensitivities).sum(dim=1, keepdim=True)


def _input_gradient_evidence(net: nn.Module, x: Tensor, y: Tensor, layer: str) -> Tensor:
    layers = ("input", *(name for name, _ in net.named_modules() if name))
    check_layers([layer], layers, layers)
    path = layer if layer == "input" else f"net.{layer}"
    named = nn.Sequential(OrderedDict(input=nn.Identity(), net=net))
    ((values, sensitivities),) = read_layers(named, x, y, [path], create_graph=True)
    if values.dim() != 4:
        raise UnknownNameError(f"layer {layer!r} holds no image, {tuple(values.shape)}")
    return (values * sensitivities).sum(dim=1, keepdim=True)


def _resized_mask(maps: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        raise DataError(
            "objective 'mask' needs training batches with masks, as dmn.data.MNIST and Scenes have "
            "them and these data do not; objective 'sparseness' needs none"
        )
    return F.adaptive_max_pool2d(mask.to(maps), (maps.shape[2], maps.shape[3]))


def _no_mask(maps: Tensor, mask: Tensor | None) -> None:
    return None


_OBJECTIVE_INPUTS: Mapping[Objective, Callable[[Tensor, Tensor | None], Tensor | None]] = {
    "mask": _resized_mask,
    "sparseness": _no_mask,
}
