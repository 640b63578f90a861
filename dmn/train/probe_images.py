"""The images a run is watched by: the first of the validation set, the same every epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ProbeImages:
    """Collect the first images of the validation batches, with their classes and masks.

    Under DDP every process collects from its own share.

    Args:
        size: Images wanted; fewer if the validation set is smaller.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._batches: list[tuple[Tensor, ...]] = []

    def collect(self, batch: Any) -> None:
        """Take what is still wanted from a batch (images, classes[, masks])."""
        missing = self.size - sum(len(taken[0]) for taken in self._batches)
        if missing > 0:
            self._batches.append(tuple(values[:missing].detach() for values in batch[:3]))

    def take(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return images, classes and masks (None if the data has none), and start anew."""
        x, y, *masks = (torch.cat(values) for values in zip(*self._batches, strict=True))
        self._batches = []
        return x, y, masks[0] if masks else None

    def __bool__(self) -> bool:
        return bool(self._batches)
