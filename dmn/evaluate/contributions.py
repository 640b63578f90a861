"""How many of the most positive pixels of a map are truly positive, and of the most negative ones.

Source: after Brandt, Raatjens & Gaydadjiev 2023, "Precise benchmarking of explainable AI
    attribution methods".
"""

from __future__ import annotations

from dmn.evaluate.batch import ExplainedBatch, Scores
from dmn.evaluate.precision import precision


def positive_precision(batch: ExplainedBatch) -> Scores:
    """Return the `precision` of the pixels whose contribution is positive.

    Args:
        batch: Its masks hold contributions of any sign.
    """
    return Scores(precision(batch.maps, batch.known_masks > 0).cpu().numpy())


def negative_precision(batch: ExplainedBatch) -> Scores:
    """Return the `precision` of the pixels whose contribution is negative, among the lowest.

    Args:
        batch: Its masks hold contributions of any sign.
    """
    return Scores(precision(-batch.maps, batch.known_masks < 0).cpu().numpy())
