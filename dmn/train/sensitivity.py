"""A training penalty that makes a network's own explanations stable under noise, without masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dmn.data import ImageBatch
from dmn.errors import OptionError
from dmn.explain.methods import StreamPart
from dmn.nn import Stream, eval_mode
from dmn.train.map_term import MapTerm


class SensitivityPenalty(MapTerm):
    """How much noise in the image changes the explanation of its class, relative to its norm.

    The class is explained by SplitCAM at each image and at the image with uniform noise. What the
    penalty asks on training images is what MaxSensitivity asks on test images, of one draw of noise
    rather than the worst of several. As `MosaicPenalty`, it is computed by a separate pass in
    float32 and eval mode.

    Args:
        weight: Factor of the penalty.
        noise: How far each pixel moves at most; MaxSensitivity of `dmn.evaluate` moves it by .2.
        layer: Where to read the explanation; see `layers` of the network.
        stream: The evidence of "g", "h" or their difference.
        part: "p", "n", their sum "p+n" or their difference "p-n".
        contrast: Start from the logit minus the mean of all, so that evidence for all classes does
            not count.
        share: Share of each batch that is explained, in (0, 1]; half of it costs half as much.

    Raises:
        OptionError: if the noise is not positive.
        UnsupportedError: when called with a network that is not a `DifferenceOfMonotone`.
        UnknownNameError: when called, if there is no such layer; lists those that exist.

    Source: Yeh, Hsieh, Suggala, Inouye & Ravikumar, On the (In)fidelity and Sensitivity of
        Explanations, NeurIPS 2019, equation 2 (the measure); training for it is ours.

    Examples:
        >>> import dmn
        >>> from dmn.data import MNIST
        >>> from dmn.train import ClassificationTask, SensitivityPenalty
        >>> data = MNIST(batch_size=8)
        >>> data.setup("fit")
        >>> batch, net = next(iter(data.train_dataloader())), dmn.load("mnist_paired").model
        >>> penalty = SensitivityPenalty(noise=0.2, part="p")
        >>> penalty(net, batch, net(batch.image)).item() > 0
        True
        >>> task = ClassificationTask(net, terms={"sensitivity": penalty})  # logs train/sensitivity
    """

    def __init__(
        self,
        weight: float = 1.0,
        noise: float = 0.2,
        layer: str = "input",
        stream: Stream = "g",
        part: StreamPart = "p+n",
        contrast: bool = True,
        share: float = 1.0,
    ) -> None:
        super().__init__(weight, layer, stream, part, contrast, share)
        if not noise > 0:
            raise OptionError(f"noise is {noise}; give a number above 0, in units of the pixels")
        self.noise = noise

    def __call__(self, net: nn.Module, batch: ImageBatch, logits: Tensor) -> Tensor:
        """Return the penalty, averaged over the share of the batch."""
        x, y, _ = batch.take(slice(math.ceil(self.share * len(logits))))
        noisy = x + torch.empty_like(x).uniform_(-self.noise, self.noise)
        with torch.autocast(x.device.type, enabled=False), eval_mode(net):
            maps = self.maps(net, torch.cat([x, noisy]), y.repeat(2)).flatten(1)
        of_image, of_noisy = maps.chunk(2)
        norm = of_image.norm(dim=1).clamp(min=torch.finfo(maps.dtype).tiny)
        change: Tensor = (of_noisy - of_image).norm(dim=1) / norm
        return change.mean()
