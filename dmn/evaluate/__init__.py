"""How good an explanation is: Quantus metrics, guarded."""

from dmn.evaluate.metrics import METRICS, MetricSpec
from dmn.evaluate.score import Scores, score

__all__ = ["METRICS", "MetricSpec", "Scores", "score"]
