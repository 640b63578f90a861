"""The rows of the metric table whose right answer is known."""

from __future__ import annotations

import math
from functools import partial

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
from dmn.evaluate.spec import MetricSpec
from dmn.evaluate.stability import PERTURBATIONS, stability
from dmn.evaluate.structure import structural_similarity

_disconnected = partial(
    MetricSpec, "disconnection", True, (0, 1), explanations=TILES, arrange=arrange, any_map=True
)
_known = partial(MetricSpec, needs_mask=True, any_map=True)
_contributions = partial(
    _known, "contributions", True, (0, 1), benchmark="constructed", signed_mask=True
)
_pattern = partial(_known, "patterns", True, (0, 1), precision_in_mask)
_trigger = partial(_known, "trigger", True, (0, 1), benchmark="trigger")
_randomised = partial(MetricSpec, "sanity", False, explanations=DEPTHS, any_map=True)

TRUTH: dict[str, MetricSpec] = {
    "DiFull": _disconnected(partial(disconnection, difull)),
    "DiPart": _disconnected(partial(disconnection, dipart)),
    "PositivePrecision": _contributions(positive_precision),
    "NegativePrecision": _contributions(negative_precision),
    "LinearPattern": _pattern(benchmark="linear"),
    "MultiplicativePattern": _pattern(benchmark="multiplicative"),
    "RigidPattern": _pattern(benchmark="rigid"),
    "CorrelatedPattern": _pattern(benchmark="correlated"),
    "SuppressorPattern": _pattern(benchmark="suppressor"),
    "TriggerPrecision": _trigger(precision_in_mask),
    "TriggerMass": _trigger(mass_in_mask),
    "PartRemoval": _known(
        "parts", True, (-1, 1), part_removal, benchmark="parts", signed_mask=True
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
