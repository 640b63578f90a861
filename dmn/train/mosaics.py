"""A training penalty that makes a network's own explanations tell classes apart, without masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dmn.data import ImageBatch
from dmn.errors import UnsupportedError
from dmn.evaluate.grid import TILES, cell_sums, tile
from dmn.nn import eval_mode
from dmn.train.map_term import MapTerm


class MosaicPenalty(MapTerm):
    """The share of positive evidence in mosaics that lies in tiles of other classes, in [0, 1].

    Training images are joined to mosaics of 2 x 2, in the order of the batch. In each, the class of
    the first image is explained by SplitCAM. What the penalty asks on training images is what the
    grid pointing game asks on test images. As `ExplanationPenalty`, it is computed by a separate
    pass in float32 and eval mode.

    Args:
        weight: Factor of the penalty.
        layer: Where to read the explanation; see `layers` of the network. A layer below it is
            trained by what it does to this layer.
        stream: The evidence of "g", "h" or their difference.
        part: "p", "n", their sum "p+n" or their difference "p-n".
        contrast: Start from the logit minus the mean of all, so that evidence for all classes does
            not count.
        share: Share of each batch that is put into mosaics, of at least four images.

    Raises:
        UnsupportedError: when called with a network that is not a `DifferenceOfMonotone`, or that
            does not take images of twice the side.
        UnknownNameError: when called, if there is no such layer; lists those that exist.

    Source: Böhle, Fritz & Schiele, Convolutional Dynamic Alignment Networks for Interpretable
        Classifications, CVPR 2021 (the game); training for it is ours.

    Examples:
        >>> import dmn
        >>> from dmn.data import Scenes
        >>> from dmn.train import ClassificationTask, MosaicPenalty
        >>> data = Scenes(batch_size=8)
        >>> data.setup("fit")
        >>> batch, net = next(iter(data.train_dataloader())), dmn.load("scenes_front").model
        >>> penalty = MosaicPenalty(layer="front", part="p")
        >>> 0 <= penalty(net, batch, net(batch.image)).item() <= 1
        True
        >>> task = ClassificationTask(net, terms={"mosaics": penalty})  # logs train/mosaics
    """

    def __call__(self, net: nn.Module, batch: ImageBatch, logits: Tensor) -> Tensor:
        """Return the penalty, averaged over the mosaics; 0 for a batch of less than four images."""
        count = max(1, math.ceil(self.share * len(logits)) // TILES) * TILES
        if len(logits) < count:
            return logits.new_zeros(())
        x, y, _ = batch.take(slice(count))
        labels = y.view(-1, TILES)
        with torch.autocast(x.device.type, enabled=False), eval_mode(net):
            cells = self._cells(net, tile(x), labels[:, 0])
        inside = labels == labels[:, :1]
        tiny = torch.finfo(cells.dtype).tiny
        return 1 - ((cells * inside).sum(dim=1) / cells.sum(dim=1).clamp(min=tiny)).mean()

    def _cells(self, net: nn.Module, mosaics: Tensor, target: Tensor) -> Tensor:
        try:
            return cell_sums(self.maps(net, mosaics, target))
        except RuntimeError as error:  # of layers that shapes do not fit
            size = " x ".join(map(str, mosaics.shape[-2:]))
            raise UnsupportedError(
                f"the network takes no mosaics of {size} pixels: {error}"
            ) from error
