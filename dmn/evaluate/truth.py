"""The rows of the metric table whose right answer is known."""

from __future__ import annotations

from functools import partial

from dmn.evaluate.disconnected import difull, dipart, disconnection
from dmn.evaluate.grid import TILES, arrange
from dmn.evaluate.spec import MetricSpec

TRUTH: dict[str, MetricSpec] = {
    name: MetricSpec(
        "disconnection",
        True,
        (0, 1),
        partial(disconnection, disconnect),
        explanations=TILES,
        arrange=arrange,
        any_map=True,
    )
    for name, disconnect in {"DiFull": difull, "DiPart": dipart}.items()
}
