"""Statistics of scores on a few images: intervals, paired tests, ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BLOCK = 2_000_000  # resampled values in memory at once


def interval(
    values: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Bound the mean by the percentile bootstrap.

    Args:
        values: One score per image, (N,); those that are not finite are left out.
        level: Share of such intervals that hold the true mean, in (0, 1).
        resamples: How often the images are resampled.
        seed: For the resampling.

    Returns:
        The interval's ends; NaN where fewer than two images have a score.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    from scipy.stats import bootstrap  # takes a second

    scores = np.asarray(values, dtype=float)
    scores = scores[np.isfinite(scores)]
    if len(scores) < 2:
        return float("nan"), float("nan")
    with np.errstate(over="ignore"):  # of the standard error, which is not used
        low, high = bootstrap(
            [scores],
            np.mean,
            n_resamples=resamples,
            batch=max(1, BLOCK // len(scores)),
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(low), float(high)


def paired_p(first: ArrayLike, second: ArrayLike) -> float:
    """Test whether two methods score alike on the same images (Wilcoxon signed-rank, two-sided).

    Images on which both scores are equal are left out.

    Args:
        first: One score per image, NaN where there is none, (N,).
        second: The other method's scores on the same images, (N,).

    Returns:
        The p-value; 1 if all scores are the same, NaN if no image has both.

    Source: Wilcoxon 1945; Demsar 2006 on comparing classifiers by it.
    """
    from scipy.stats import wilcoxon  # takes a second

    pairs = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    if not pairs.size:
        return float("nan")
    difference = pairs[0] - pairs[1]
    difference = difference[difference != 0]
    return float(wilcoxon(difference).pvalue) if len(difference) else 1.0


def holm(p: ArrayLike) -> Floats:
    """Correct p-values for multiple tests.

    Args:
        p: The p-values of one family, (K,); NaN stands for no test, and is not counted.

    Returns:
        Corrected p-values, (K,), in the same order.

    Source: Holm 1979.
    """
    p = np.asarray(p, dtype=float)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return corrected


def places(goodness: ArrayLike, competing: ArrayLike) -> Floats:
    """Rank entries among those that compete; the others get the rank that they would have.

    Args:
        goodness: Larger is better, (E,); an entry without a score (NaN) comes last.
        competing: Whether an entry counts in the ranks of others, (E,).

    Returns:
        Ranks from 1, (E,); ties share their mean rank. NaN if no competitor has a score.
    """
    goodness, competing = np.asarray(goodness, dtype=float), np.asarray(competing, dtype=bool)
    if not np.isfinite(goodness[competing]).any():
        return np.full(goodness.shape, np.nan)
    goodness = np.where(np.isfinite(goodness), goodness, -np.inf)
    this, others = goodness[:, None], goodness[None, :]
    ahead = (others > this) + 0.5 * (others == this)
    np.fill_diagonal(ahead, 0)
    return np.asarray(1 + ahead[:, competing].sum(axis=1), dtype=float)


def best_rivals(goodness: ArrayLike, competing: ArrayLike) -> list[int | None]:
    """Find for each entry the best of the other competitors.

    Args:
        goodness: Larger is better, (E,); NaN stands for no score.
        competing: Whether an entry can be a rival, (E,).

    Returns:
        The rival's index for each entry; None where no other competitor has a score.
    """
    goodness = np.asarray(goodness, dtype=float)
    eligible = np.asarray(competing, dtype=bool) & np.isfinite(goodness)
    order = [int(row) for row in np.argsort(-goodness, kind="stable") if eligible[row]]
    return [next((row for row in order if row != entry), None) for entry in range(len(goodness))]
