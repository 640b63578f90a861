"""What can be said of scores of a few images: intervals, paired tests, places."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BLOCK = 2_000_000  # resampled values held at once


def interval(
    values: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Bound the mean by the percentile bootstrap.

    Args:
        values: One score an image, (N,); those that are not finite are left out.
        level: Share of such intervals that hold the true mean, in (0, 1).
        resamples: How often the images are drawn anew.
        seed: Of these draws.

    Returns:
        The interval's ends; NaN where fewer than two images have a score.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    given = np.asarray(values, dtype=float)
    known = given[np.isfinite(given)]
    if len(known) < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    block = max(1, BLOCK // len(known))
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    draws = (random.integers(len(known), size=(size, len(known))) for size in sizes)
    means = np.concatenate([known[rows].mean(axis=1) for rows in draws])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p(first: ArrayLike, second: ArrayLike) -> float:
    """Test whether two methods score alike on the same images (Wilcoxon signed-rank, two-sided).

    Images on which both score the same say nothing and are left out.

    Args:
        first: One score an image, NaN where there is none, (N,).
        second: The other method's scores of the same images, (N,).

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
    """Correct p-values for being many.

    Args:
        p: The p-values of one family, (K,); NaN is no test, and does not count.

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
    """Rank entries among those that compete; the others get the place that they would take.

    Args:
        goodness: The more the better, (E,); an entry without a score (NaN) comes last.
        competing: Whether an entry takes a place from others, (E,).

    Returns:
        Places from 1, (E,); equal ones share the mean of theirs. NaN if no competitor has a score.
    """
    goodness, competing = np.asarray(goodness, dtype=float), np.asarray(competing, dtype=bool)
    if not np.isfinite(goodness[competing]).any():
        return np.full(goodness.shape, np.nan)
    goodness = np.where(np.isfinite(goodness), goodness, -np.inf)
    mine, others = goodness[:, None], goodness[None, :]
    ahead = (others > mine) + 0.5 * (others == mine)
    np.fill_diagonal(ahead, 0)
    return np.asarray(1 + ahead[:, competing].sum(axis=1), dtype=float)


def best_rivals(goodness: ArrayLike, competing: ArrayLike) -> list[int | None]:
    """Find for each entry the best of the other competitors.

    Args:
        goodness: The more the better, (E,); NaN has no score.
        competing: Whether an entry can be a rival, (E,).

    Returns:
        Its index for each entry; None where no other competitor has a score.
    """
    goodness = np.asarray(goodness, dtype=float)
    able = np.asarray(competing, dtype=bool) & np.isfinite(goodness)
    order = [int(row) for row in np.argsort(-goodness, kind="stable") if able[row]]
    return [next((row for row in order if row != own), None) for own in range(len(goodness))]
