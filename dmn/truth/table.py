"""The table of all benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from dmn.truth.benchmark import Benchmark
from dmn.truth.constructed import constructed
from dmn.truth.parts import part_benchmark
from dmn.truth.patterns import VARIANTS, patterns
from dmn.truth.trigger import trigger

BENCHMARKS: Mapping[str, Callable[[int, int], Benchmark]] = {
    "constructed": constructed,
    **{variant: partial(patterns, variant) for variant in VARIANTS},
    "trigger": trigger,
    "parts": part_benchmark,
}
"""Makes each benchmark, by its name, from the number of images and a seed."""
