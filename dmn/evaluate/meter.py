"""Scores of explanations as a torchmetrics metric: batch by batch, and over processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from dmn.evaluate.batch import Array
from dmn.evaluate.metrics import metric_specs
from dmn.evaluate.score import score
from dmn.explain import Explainer, Target


class ExplanationMeter(Metric):
    """Mean scores of an explainer's maps over many batches and processes.

    Args:
        metrics: Keys of `METRICS`, or one of them.
        seed: For the random numbers of the metrics, at least 0.
        **options: Options of `score`: `batch_size`, `seconds` (per metric and update).

    Raises:
        UnknownNameError: if a metric does not exist; lists those that do.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    dropped: Tensor

    def __init__(self, metrics: str | Iterable[str], seed: int = 0, **options: Any) -> None:
        super().__init__()
        self.metrics = list(metric_specs(metrics))
        self.seed = seed
        self.options = options
        for state in ("total", "count", "dropped"):
            zeros = torch.zeros(len(self.metrics), dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(
        self,
        model: nn.Module,
        explainer: Explainer,
        x: Tensor,
        y: Target,
        masks: Tensor | Array | None = None,
    ) -> None:
        """Score a batch; arguments as for `score`, which says what is dropped and why."""
        results = score(self.metrics, model, explainer, x, y, masks, self.seed, **self.options)
        for index, scores in enumerate(results.values()):
            self.total[index] += scores.mean * scores.n if scores.n else 0.0
            self.count[index] += scores.n
            self.dropped[index] += len(x) - scores.n

    def compute(self) -> dict[str, Tensor]:
        """Return each metric's mean over all images with a score, NaN if there are none.

        `<metric>/count` and `<metric>/dropped` are the numbers of images with and without a score.
        """
        columns = {
            "": self.total / self.count,
            "/count": self.count,
            "/dropped": self.dropped,
        }
        return {
            name + suffix: column[index]
            for suffix, column in columns.items()
            for index, name in enumerate(self.metrics)
        }
