"""The images of a comparison: those that all networks classify correctly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmn.data import ImageBatch, as_batch, concatenate
from dmn.errors import DataError
from dmn.hub import Network


@dataclass(frozen=True)
class ComparedImages:
    """The images of a comparison with their classes and masks.

    Attributes:
        x: Images as the networks take them, (N, C, H, W).
        y: Their classes (N,), which are explained.
        masks: Where the evidence is, 0 or 1, (N, 1, H, W); None if the data has none.
        seen: How many images were classified to find these.

    Examples:
        >>> import torch
        >>> from dmn.compare import ComparedImages
        >>> images = ComparedImages(torch.rand(5, 1, 28, 28), torch.arange(5), masks=None, seen=6)
        >>> len(images), len(images.first(2))
        (5, 2)
    """

    x: Tensor
    y: Tensor
    masks: Tensor | None
    seen: int

    def __len__(self) -> int:
        return len(self.y)

    def first(self, count: int) -> ComparedImages:
        """Return the first images."""
        masks = None if self.masks is None else self.masks[:count]
        return ComparedImages(self.x[:count], self.y[:count], masks, self.seen)


def collect(batches: Iterable[Any], networks: Mapping[str, Network], count: int) -> ComparedImages:
    """Take the first images that every network classifies correctly.

    A network that misclassifies an image has no evidence for its true class to explain.

    Args:
        batches: Whatever `dmn.data.as_batch` takes, on the device of the networks.
        networks: The networks by label.
        count: Number of images; fewer if the data does not have as many.

    Raises:
        DataError: if no image is classified correctly by all networks.
    """
    kept: list[ImageBatch] = []
    found = seen = 0
    for batch in map(as_batch, batches):
        x, y = batch.image, batch.label
        correct = torch.stack([network.predict(x) == y for network in networks.values()]).all(dim=0)
        rows = correct.nonzero().flatten()[: count - found]
        seen += int(rows[-1]) + 1 if found + len(rows) == count else len(y)
        kept.append(batch.take(rows))
        found += len(rows)
        if found == count:
            break
    if not found:
        raise DataError(
            f"of {seen} images none is classified correctly by all of {', '.join(networks)}; are "
            "they trained, for these classes and with this normalisation?"
        )
    return ComparedImages(*concatenate(kept), seen)
