"""Networks and images whose right explanation is known, made by code and without downloads.

`BENCHMARKS` has them by name. The metrics that are measured on them are rows of
`dmn.evaluate.METRICS`.
"""

from dmn.truth.benchmark import Benchmark
from dmn.truth.table import BENCHMARKS

__all__ = ["BENCHMARKS", "Benchmark"]
