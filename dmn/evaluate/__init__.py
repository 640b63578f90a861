"""Metrics of explanations: those of Quantus, guarded, and others.

`dmn.evaluate.meter` accumulates them over batches and processes; importing it takes seconds.
"""

from dmn.evaluate.batch import Scores
from dmn.evaluate.metrics import METRICS, metric_specs
from dmn.evaluate.score import score
from dmn.evaluate.spec import MetricSpec

__all__ = [
    "METRICS",
    "MetricSpec",
    "Scores",
    "metric_specs",
    "score",
]
