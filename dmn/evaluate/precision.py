"""Whether the largest values of a map lie where the evidence is known to be.

Maps are taken with their signs: positive values speak for the class. Of absolute values, a map that
says that a pattern speaks against its own class would be perfect.
"""

from __future__ import annotations

from torch import Tensor

from dmn.evaluate.batch import ExplainedBatch, Scores, as_array


def precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of the k largest values that lie in the mask, where k is its size.

    Equal values at the threshold count by their expectation under a random order, so that a
    constant map has k / N of N pixels. So has any map that is noise, on average.

    Args:
        maps: (B, 1, H, W).
        masks: 0 or 1, (B, 1, H, W).

    Returns:
        Precision in [0, 1], (B,), float64; NaN where the mask is empty.
    """
    values, inside = maps.flatten(1), masks.flatten(1).double()
    size = inside.sum(dim=1, keepdim=True)
    ordered = values.sort(dim=1, descending=True).values
    threshold = ordered.gather(1, (size.long() - 1).clamp(min=0))
    above, equal = (values > threshold).double(), (values == threshold).double()
    share = (size - above.sum(dim=1, keepdim=True)) / equal.sum(dim=1, keepdim=True)
    return ((above + share * equal) * inside).sum(dim=1) / size.squeeze(1)


def mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of a map's absolute values that lies in the mask.

    A map of zeros counts as any other constant map: it has k / N, where the mask has k of N pixels.
    So has any map that is noise, on average.

    Args:
        maps: (B, 1, H, W).
        masks: 0 or 1, (B, 1, H, W).

    Returns:
        Shares in [0, 1], (B,), float64.
    """
    sizes, inside = maps.flatten(1).double().abs(), masks.flatten(1).double()
    sizes = sizes + (sizes.sum(dim=1, keepdim=True) == 0)
    return (sizes * inside).sum(dim=1) / sizes.sum(dim=1)


def precision_in_mask(batch: ExplainedBatch) -> Scores:
    """Score maps by `precision`, with the masks of the batch."""
    return Scores(as_array(precision(batch.maps, batch.known_masks)))


def mass_in_mask(batch: ExplainedBatch) -> Scores:
    """Score maps by `mass`, with the masks of the batch."""
    return Scores(as_array(mass(batch.maps, batch.known_masks)))
