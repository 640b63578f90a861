"""The rows of the metric table whose right answer is known."""

from __future__ import annotations

from functools import partial

from dmn.evaluate.contributions import negative_precision, positive_precision
from dmn.evaluate.disconnected import difull, dipart, disconnection
from dmn.evaluate.grid import TILES, arrange
from dmn.evaluate.spec import MetricSpec

_disconnected = partial(
    MetricSpec,
    "disconnection",
    True,
    (0, 1),
    explanations=TILES,
    arrange=arrange,
    any_map=True,
)
_constructed = partial(
    MetricSpec,
    "contributions",
    True,
    (0, 1),
    needs_mask=True,
    benchmark="constructed",
    signed_mask=True,
    any_map=True,
)

TRUTH: dict[str, MetricSpec] = {
    "DiFull": _disconnected(partial(disconnection, difull)),
    "DiPart": _disconnected(partial(disconnection, dipart)),
    "PositivePrecision": _constructed(positive_precision),
    "NegativePrecision": _constructed(negative_precision),
}
