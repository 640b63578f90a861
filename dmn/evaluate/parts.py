"""Does the map rank the parts of an object as the network does?"""

from __future__ import annotations

import numpy as np
import torch

from dmn.evaluate.batch import ExplainedBatch, Scores
from dmn.evaluate.rank import rank_correlation


def part_removal(batch: ExplainedBatch) -> Scores:
    """Return the rank correlation between the map's means over parts and the parts' importance.

    The mask holds at each part's pixels its importance, and 0 elsewhere: the fall of the class's
    logit when the image is drawn without the part. Parts are told apart by their values. A map of
    these values scores 1, and noise of any distribution, the same for all pixels and symmetric,
    scores 0 in mean: each order of parts is as likely as the opposite one. So does a constant map.

    The mean is taken, not the sum, since the sum of uniform noise would rank parts by their size.

    Source: Hesse, Schaub-Meyer & Roth 2023, "FunnyBirds: A synthetic vision dataset for a
    part-based analysis of explainable AI methods", the single deletion protocol.

    Args:
        batch: The images, with masks of importance.
    """
    scores = Scores(np.full(len(batch.x), np.nan))
    for row, (map_, mask) in enumerate(zip(batch.maps.double(), batch.known_masks, strict=True)):
        worth = mask.unique()
        worth = worth[worth != 0]
        if len(worth) < 2:
            scores.note([row], "mask of fewer than two parts")
            continue
        means = torch.stack([map_[mask == value].mean() for value in worth])
        scores.values[row] = rank_correlation(means[None], worth[None]).item()
    return scores
