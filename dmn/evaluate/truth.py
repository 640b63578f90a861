"""The rows of the metric table whose right answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from dmn.evaluate.batch import ExplainedBatch, Scores
from dmn.evaluate.contributions import negative_precision, positive_precision
from dmn.evaluate.disconnected import difull, dipart, disconnection
from dmn.evaluate.grid import TILES, arrange
from dmn.evaluate.parts import part_removal
from dmn.evaluate.precision import mass_in_mask, precision_in_mask
from dmn.evaluate.randomised import (
    entropy_rise,
    independent,
    top_down,
    unsigned_rank_correlation,
)
from dmn.evaluate.shuffle import DEPTHS
from dmn.evaluate.spec import Category, MetricSpec
from dmn.evaluate.stability import PERTURBATIONS, stability
from dmn.evaluate.structure import structural_similarity


def _in_mask(
    category: Category, benchmark: str, measure: Callable[[ExplainedBatch], Scores]
) -> MetricSpec:
    return MetricSpec(
        category, True, (0, 1), measure, needs_mask=True, benchmark=benchmark, any_map=True
    )


_disconnected = partial(
    MetricSpec, "disconnection", True, (0, 1), explanations=TILES, arrange=arrange, any_map=True
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
_randomised = partial(MetricSpec, "sanity", False, explanations=DEPTHS, any_map=True)
_pattern = partial(_in_mask, "patterns", measure=precision_in_mask)

TRUTH: dict[str, MetricSpec] = {
    "DiFull": _disconnected(partial(disconnection, difull)),
    "DiPart": _disconnected(partial(disconnection, dipart)),
    "PositivePrecision": _constructed(positive_precision),
    "NegativePrecision": _constructed(negative_precision),
    "LinearPattern": _pattern("linear"),
    "MultiplicativePattern": _pattern("multiplicative"),
    "RigidPattern": _pattern("rigid"),
    "CorrelatedPattern": _pattern("correlated"),
    "SuppressorPattern": _pattern("suppressor"),
    "TriggerPrecision": _in_mask("trigger", "trigger", precision_in_mask),
    "TriggerMass": _in_mask("trigger", "trigger", mass_in_mask),
    "PartRemoval": MetricSpec(
        "parts",
        True,
        (-1, 1),
        part_removal,
        needs_mask=True,
        benchmark="parts",
        signed_mask=True,
        any_map=True,
    ),
    "TopDownMPRT": _randomised((0, 1), partial(top_down, similarity=unsigned_rank_correlation)),
    "TopDownMPRTSSIM": _randomised((-1, 1), partial(top_down, similarity=structural_similarity)),
    "IndependentMPRT": _randomised(
        (0, 1), partial(independent, similarity=unsigned_rank_correlation)
    ),
    "EfficientMPRT": MetricSpec(
        "sanity", True, (-1, math.inf), entropy_rise, explanations=1, any_map=True
    ),
    "Stability": MetricSpec(
        "sanity",
        True,
        (-1, 1),
        stability,
        forwards=1 + len(PERTURBATIONS),
        explanations=len(PERTURBATIONS),
        any_map=True,
    ),
}
