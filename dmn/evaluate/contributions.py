"""How many of the most positive pixels of a map are truly positive, and of the most negative ones.

Source: after Brandt, Raatjens & Gaydadjiev 2023, "Precise benchmarking of explainable AI
    attribution methods".
"""

from __future__ import annotations

from torch import Tensor

from dmn.evaluate.batch import ExplainedBatch, Scores


def precision(maps: Tensor, truth: Tensor) -> Tensor:
    """Return the share of the k highest pixels that are true, k being the number of true ones.

    Of equal pixels, which are the highest is left to chance: the result is the expected share. A
    perfect map has 1. A map that is constant, or random, has the share of true pixels in the image.

    Args:
        maps: (B, 1, H, W).
        truth: Which pixels should be highest, bool, (B, 1, H, W).

    Returns:
        (B,), float64; NaN where no pixel is true.

    Examples:
        >>> truth = torch.tensor([True, True, False, False]).view(1, 1, 2, 2)
        >>> precision(torch.tensor([3.0, 1.0, 2.0, 0.0]).view(1, 1, 2, 2), truth)
        tensor([0.5000], dtype=torch.float64)
        >>> precision(torch.tensor([3.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2), truth)
        tensor([0.7500], dtype=torch.float64)
    """
    values, true = maps.flatten(1).double(), truth.flatten(1)
    count = true.sum(dim=1, keepdim=True)
    ordered = values.sort(dim=1, descending=True).values
    lowest = ordered.gather(1, (count - 1).clamp(min=0))  # of the k highest
    above, equal = values > lowest, values == lowest
    room = count - above.sum(dim=1, keepdim=True)
    sure = (above & true).sum(dim=1, keepdim=True)
    expected = room * (equal & true).sum(dim=1, keepdim=True) / equal.sum(dim=1, keepdim=True)
    return ((sure + expected.double()) / count).squeeze(1)


def positive_precision(batch: ExplainedBatch) -> Scores:
    """Return the `precision` of the pixels whose contribution is positive.

    Args:
        batch: Its masks hold contributions of any sign.
    """
    assert batch.masks is not None, "the row says that masks are needed"
    return Scores(precision(batch.maps, batch.masks > 0).cpu().numpy())


def negative_precision(batch: ExplainedBatch) -> Scores:
    """Return the `precision` of the pixels whose contribution is negative, among the lowest.

    Args:
        batch: Its masks hold contributions of any sign.
    """
    assert batch.masks is not None, "the row says that masks are needed"
    return Scores(precision(-batch.maps, batch.masks < 0).cpu().numpy())
