"""Data order and augmentation that follow from (seed, epoch, index) alone.

Lightning checkpoints hold no random state, so a resumed run sees the same images in the same order
only if nothing depends on what was drawn before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DistributedSampler

from dmn.io.options import SEEDS, require


def require_loading(batch_size: int, seed: int, num_workers: int) -> None:
    """Refuse what no data can be loaded by.

    Raises:
        OptionError: names the option.
    """
    require("data.batch_size", batch_size, 1)
    require("data.seed", seed, 0, SEEDS)
    require("data.num_workers", num_workers, 0)


class EpochSampler(DistributedSampler[Any]):
    """A shuffled sampler that yields (epoch, index), so that augmentation knows the epoch.

    Lightning calls `set_epoch`; `DistributedSampler` shards the indices where there are many
    processes and is a plain shuffle where there is one.
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield self.epoch, index


class RandomAffine:
    """Small rotations, scalings and shifts of grey images, one draw an image and epoch.

    Args:
        count: Images there are.
        seed: Where the draws start.
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
        """Warp images (B, C, H, W), the background being 0.

        Args:
            images: The images at `indices`, in [0, 1].
            epoch: The epoch that they are drawn for.
            indices: Which images of the data set they are, (B,).
        """
        angle, scale, *shift = (self._of(epoch)[indices] * self.largest).unbind(dim=1)
        cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
        rows = [torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def _of(self, epoch: int) -> Tensor:
        """Draw, for every image at once, the four numbers of this epoch, uniform in [-1, 1)."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
            self._draws = torch.rand(self.count, 4, generator=generator) * 2 - 1
            self._epoch = epoch
        return self._draws
