"""Data order and augmentation that depend only on (seed, epoch, index).

Lightning's checkpoints have no random state, so a resumed run sees the same images in the same
order only if nothing depends on earlier random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from dmn.io.options import SEEDS, require

Batch = TypeVar("Batch")


def require_loading(batch_size: int, seed: int, num_workers: int) -> None:
    """Check the options of data loaders.

    Raises:
        OptionError: if one is out of its range; names it.
    """
    require("data.batch_size", batch_size, 1)
    require("data.seed", seed, 0, SEEDS)
    require("data.num_workers", num_workers, 0)


class EpochSampler(DistributedSampler[Any]):
    """A shuffled sampler that yields (epoch, index), so that augmentation knows the epoch.

    Lightning calls `set_epoch`; `DistributedSampler` divides the indices among processes;
    with one process it only shuffles.
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield self.epoch, index


class EpochLoader(DataLoader[Batch]):
    """A loader whose processes begin to read when the first batch is asked for.

    Lightning sets the sampler's epoch after it has made the iterator. Processes that had read ahead
    would give a resumed run the order of its first epoch again.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from super().__iter__()


class RandomAffine:
    """Small rotations, scalings and shifts of grey images, drawn per image and epoch.

    Args:
        count: Number of images.
        seed: For the random numbers.
        degrees: Largest rotation.
        scale: Largest relative change of size.
        shift: Largest shift, as a share of the image's side.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        degrees: float = 10.0,
        scale: float = 0.1,
        shift: float = 0.07,
    ) -> None:
        self.count, self.seed = count, seed
        self.largest = torch.tensor([math.radians(degrees), scale, 2 * shift, 2 * shift])
        self._epoch, self._draws = -1, torch.empty(0)

    def __call__(self, images: Tensor, epoch: int, indices: Tensor) -> Tensor:
        """Warp images (B, C, H, W) with background 0.

        Args:
            images: The images at `indices`, in [0, 1].
            epoch: The epoch.
            indices: Their indices in the data set, (B,).
        """
        angle, scale, *shift = (self._epoch_draws(epoch)[indices] * self.largest).unbind(dim=1)
        cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
        rows = [torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def _epoch_draws(self, epoch: int) -> Tensor:
        """Return four random numbers per image for an epoch, uniform in [-1, 1)."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
            self._draws = torch.rand(self.count, 4, generator=generator) * 2 - 1
            self._epoch = epoch
        return self._draws
