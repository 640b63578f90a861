"""The batch that every data loader yields: images, classes and optional masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmn.errors import DataError


class ImageBatch(NamedTuple):
    """Images with their classes and, for some data sets, masks of the evidence for the class.

    Attributes:
        image: Images (B, C, H, W).
        label: Class indices (B,).
        mask: 0 or 1, (B, 1, H, W); None if the data has no masks.

    Examples:
        >>> import torch
        >>> from dmn.data import ImageBatch
        >>> batch = ImageBatch(torch.rand(4, 1, 28, 28), torch.tensor([3, 1, 4, 1]))
        >>> batch.take(slice(2)).label
        tensor([3, 1])
        >>> image, label, mask = batch
    """

    image: Tensor
    label: Tensor
    mask: Tensor | None = None

    def take(self, rows: slice | Tensor) -> ImageBatch:
        """Return some of the images, with their classes and masks.

        Args:
            rows: A slice, or a tensor of indices.
        """
        mask = None if self.mask is None else self.mask[rows]
        return ImageBatch(self.image[rows], self.label[rows], mask)


def as_batch(batch: Any) -> ImageBatch:
    """Convert what a data loader yields to an `ImageBatch`.

    Args:
        batch: An `ImageBatch`, or a tuple or list of images (B, C, H, W), classes (B,) and,
            optionally, masks (B, 1, H, W).

    Raises:
        DataError: if it is anything else.

    Examples:
        >>> import torch
        >>> from dmn.data import as_batch
        >>> as_batch([torch.rand(2, 1, 28, 28), torch.tensor([3, 5])]).label
        tensor([3, 5])
    """
    if isinstance(batch, ImageBatch):
        return batch
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise DataError(
            f"the data yields a {type(batch).__name__}{size}; make each batch a tuple of images, "
            "classes and, if there are any, masks"
        )
    return ImageBatch(*batch)


def concatenate(batches: Sequence[ImageBatch]) -> ImageBatch:
    """Concatenate batches.

    Args:
        batches: One or more, all with masks or all without.

    Raises:
        DataError: if some have masks and others have none.
    """
    masks = [batch.mask for batch in batches if batch.mask is not None]
    if masks and len(masks) < len(batches):
        raise DataError("some batches have masks and others have none; give all of them, or none")
    return ImageBatch(
        torch.cat([batch.image for batch in batches]),
        torch.cat([batch.label for batch in batches]),
        torch.cat(masks) if masks else None,
    )


def keep_batch(batch: Any) -> Any:
    """Return a batch unchanged, as `__getitems__` of the data set returns it; for `collate_fn`."""
    return batch
