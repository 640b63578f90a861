"""The rows of the metric table whose right answer is known."""

from __future__ import annotations

from dmn.evaluate.spec import MetricSpec

TRUTH: dict[str, MetricSpec] = {}
