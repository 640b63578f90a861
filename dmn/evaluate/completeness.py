"""Whether a map sums up to the change of the network's output."""

from __future__ import annotations

import torch

from dmn.evaluate.batch import ExplainedBatch, Scores


def completeness_gap(batch: ExplainedBatch) -> Scores:
    """Return |sum of the map - (f(x) - f(0))| / |f(x) - f(0)| for the class's logit f.

    Quantus' own metric requires exact equality of floating-point numbers, which no map reaches.

    Source: Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks".
    """
    targets = batch.y.unsqueeze(1)
    logit, logit_of_zero = (
        batch.logits(x).gather(1, targets).squeeze(1).double()
        for x in (batch.x, torch.zeros_like(batch.x))
    )
    change = logit - logit_of_zero
    gap = (batch.maps.double().sum(dim=(1, 2, 3)) - change).abs() / change.abs()
    return Scores(gap.cpu().numpy())
