"""The images that callbacks explain: the first of the validation set, the same in every epoch."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from dmn.data import ImageBatch, as_batch, concatenate


class ProbeImages:
    """Collect the first images of the validation batches, with their classes and masks.

    With DDP every process collects from its own share.

    Args:
        size: Number of images; fewer if the validation set is smaller.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._batches: list[ImageBatch] = []

    def collect(self, batch: Any) -> None:
        """Take the missing images from a batch, of any type that `dmn.data.as_batch` takes."""
        missing = self.size - sum(len(collected.label) for collected in self._batches)
        if missing > 0:
            self._batches.append(as_batch(batch).take(slice(missing)))

    def take(self) -> ImageBatch:
        """Return the images, and remove them."""
        batch = concatenate(self._batches)
        self._batches = []
        return batch

    def __bool__(self) -> bool:
        return bool(self._batches)


def is_due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Return whether a callback is to evaluate this validation: each n-th epoch, and the last one.

    Args:
        trainer: The trainer.
        every_n_epochs: 0 for never.
    """
    if trainer.sanity_checking or not every_n_epochs:
        return False
    if trainer.state.fn == "validate":  # alone, of no epoch
        return True
    epoch = trainer.current_epoch + 1
    return epoch % every_n_epochs == 0 or epoch == trainer.max_epochs
