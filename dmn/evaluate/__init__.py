"""How good an explanation is: Quantus metrics, guarded, and others beside them.

`dmn.evaluate.meter` accumulates them over batches and processes; it takes seconds to import.
"""

from dmn.evaluate.batch import Scores
from dmn.evaluate.metrics import METRICS, MetricSpec, metric_specs
from dmn.evaluate.score import score

__all__ = [
    "METRICS",
    "MetricSpec",
    "Scores",
    "metric_specs",
    "score",
]
