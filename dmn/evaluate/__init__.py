"""How good an explanation is: Quantus metrics, guarded."""

from dmn.evaluate.metrics import METRICS, MetricSpec, UnknownMetricError, metric_specs
from dmn.evaluate.score import Scores, score

__all__ = ["METRICS", "MetricSpec", "Scores", "UnknownMetricError", "metric_specs", "score"]
