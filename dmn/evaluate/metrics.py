"""The metric table: what each metric measures, its direction, cost and options.

The direction, range and requirements of every score are read from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmn.errors import TargetError, UnknownNameError
from dmn.evaluate.batch import Array, ExplainedBatch, Scores, as_array
from dmn.evaluate.completeness import completeness_gap
from dmn.evaluate.grid import TILES, arrange, grid_pointing_game
from dmn.evaluate.guard import evaluate_metric, noise, other_classes, subsets
from dmn.evaluate.spec import MetricSpec
from dmn.evaluate.truth import TRUTH
from dmn.explain.target import probabilities

Options = dict[str, Any]

FLIPPING_STEPS = 32  # at most; Quantus' default is one forward pass per pixel and channel
PATCHES = 8  # per side of the image
SENSITIVITY_SAMPLES = 10  # Quantus' default is 200, which takes minutes
SUBSETS = 100  # random subsets, each of one in a hundred features


@dataclass(frozen=True)
class QuantusMetric:
    """A guarded metric of Quantus.

    Attributes:
        name: Name of its class.
        options: Returns its arguments for a batch.
        softmax: Whether it sees probabilities (the sigmoid of a single logit) rather than logits.
        normalise: Whether each map is first divided by its largest absolute value.
        curve: Whether it returns the class's probability after each step; the area is the score.
        classes: The classes to explain instead of those that it draws by position in the batch.
    """

    name: str
    options: Callable[[ExplainedBatch], Options] = lambda batch: {}
    softmax: bool = True
    normalise: bool = True
    curve: bool = False
    classes: Callable[[ExplainedBatch], Any] | None = None

    def build(self, batch: ExplainedBatch) -> Any:
        """Return a new Quantus metric: silent, one score per image, independent of the batch."""
        import quantus  # takes seconds

        options = {"abs": False, "normalise": False, "return_aggregate": False}
        with redirect_stdout(None):  # it always prints advice
            return getattr(quantus, self.name)(
                disable_warnings=True, display_progressbar=False, **options | self.options(batch)
            )

    def __call__(self, batch: ExplainedBatch) -> Scores:
        """Score a batch."""
        try:
            values = evaluate_metric(
                self.build(batch), batch, self.softmax, self.normalise, self.classes
            )
        finally:
            _forget_models()
        if not self.curve:
            return Scores(values)
        start = probabilities(batch.logits(batch.x)).gather(1, batch.y.unsqueeze(1))
        return Scores(area_under_curve(values), curves=np.hstack([as_array(start), values]))


def area_under_curve(curves: Array) -> Array:
    """Integrate curves (B, steps) over [0, 1]; Quantus calls a function that numpy has removed."""
    area: Array = np.trapezoid(curves, axis=1) / (curves.shape[1] - 1)
    return area


def features_in_step(shape: Iterable[int]) -> int:
    """Return the smallest number of features per step that needs at most `FLIPPING_STEPS` steps.

    Args:
        shape: Shape of one image, (C, H, W); Quantus requires a divisor of H x W.
    """
    channels, height, width = shape
    pixels = height * width
    divisors = (size for size in range(1, pixels + 1) if pixels % size == 0)
    return next(
        size for size in divisors if channels * pixels / size <= FLIPPING_STEPS or size == pixels
    )


def metric_specs(names: str | Iterable[str]) -> dict[str, MetricSpec]:
    """Look metrics up in the table by their names.

    Args:
        names: Keys of `METRICS`, or one of them.

    Raises:
        UnknownNameError: if a metric does not exist; lists those that do.

    Examples:
        >>> list(metric_specs("Complexity"))
        ['Complexity']
    """
    keys = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in keys if name not in METRICS]:
        raise UnknownNameError(f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    return {name: METRICS[name] for name in keys}


def _forget_models() -> None:
    """Empty the caches by which Quantus keeps every model alive."""
    from quantus.helpers.model.pytorch_model import PyTorchModel

    for method in ("_get_last_softmax_layer_index", "_get_model_with_linear_top"):
        getattr(PyTorchModel, method).cache_clear()


def _absolute(batch: ExplainedBatch) -> Options:
    return {"abs": True}


def _positive(batch: ExplainedBatch) -> Options:
    return {"positive_attributions": True}


def _pixels(batch: ExplainedBatch) -> Options:
    # "black" and "mean" would depend on the pixels already flipped
    return {"features_in_step": features_in_step(batch.x.shape[1:]), "perturb_baseline": 0.0}


def _patches(batch: ExplainedBatch) -> Options:
    return {"patch_size": math.ceil(max(batch.x.shape[2:]) / PATCHES), "perturb_baseline": 0.0}


def _subsets(batch: ExplainedBatch) -> Options:
    size = max(1, batch.x[0].numel() // 100)
    return {"nr_runs": SUBSETS, "subset_size": size, "perturb_func": subsets(batch.seed)}


def _noise(batch: ExplainedBatch) -> Options:
    samples = SENSITIVITY_SAMPLES
    return {"nr_samples": samples, "lower_bound": 0.2, "perturb_func": noise(batch.seed)}


def _classes(batch: ExplainedBatch) -> Options:
    if batch.classes == 1:
        raise TargetError("this score needs two classes, and the network has one logit")
    return {"num_classes": batch.classes}


_PIXEL_FLIPPING = QuantusMetric("PixelFlipping", _pixels, curve=True)


def symmetric_relevance_gain(batch: ExplainedBatch) -> Scores:
    """Return the area under PixelFlipping's curve in reverse order, less the area in its own.

    The reverse order flips the least relevant features first. Signs count: evidence against the
    class is the least relevant.

    Source: Blücher, Vielhaben & Strodthoff 2024, "Decoupling pixel flipping and occlusion strategy
    for consistent XAI benchmarks".
    """
    most_relevant_first = _PIXEL_FLIPPING(batch).values
    least_relevant_first = _PIXEL_FLIPPING(replace(batch, maps=-batch.maps)).values
    return Scores(least_relevant_first - most_relevant_first)


METRICS: dict[str, MetricSpec] = {
    "PixelFlipping": MetricSpec(
        "faithfulness",
        False,
        (0, 1),
        _PIXEL_FLIPPING,
        forwards=FLIPPING_STEPS + 1,
    ),
    "SymmetricRelevanceGain": MetricSpec(
        "faithfulness",
        True,
        (-1, 1),
        symmetric_relevance_gain,
        forwards=2 * (FLIPPING_STEPS + 1),
    ),
    "Selectivity": MetricSpec(
        "faithfulness",
        False,
        (0, 1),
        QuantusMetric("Selectivity", _patches, curve=True),
        forwards=PATCHES**2 + 1,
    ),
    "FaithfulnessCorrelation": MetricSpec(
        "faithfulness",
        True,
        (-1, 1),
        QuantusMetric("FaithfulnessCorrelation", _subsets, softmax=False),
        forwards=SUBSETS + 1,
    ),
    "MaxSensitivity": MetricSpec(
        "robustness",
        False,
        (0, math.inf),
        QuantusMetric("MaxSensitivity", _noise, normalise=False),
        explanations=SENSITIVITY_SAMPLES,
    ),
    "AvgSensitivity": MetricSpec(
        "robustness",
        False,
        (0, math.inf),
        QuantusMetric("AvgSensitivity", _noise, normalise=False),
        explanations=SENSITIVITY_SAMPLES,
    ),
    "PointingGame": MetricSpec(
        "localisation",
        True,
        (0, 1),
        QuantusMetric("PointingGame"),
        needs_mask=True,
        constant_score=0.0,  # Quantus counts it as a hit
    ),
    "RelevanceRankAccuracy": MetricSpec(
        "localisation", True, (0, 1), QuantusMetric("RelevanceRankAccuracy"), needs_mask=True
    ),
    "RelevanceMassAccuracy": MetricSpec(
        "localisation",
        True,
        (0, 1),
        QuantusMetric("RelevanceMassAccuracy", _absolute),  # signed sums may cancel
        needs_mask=True,
    ),
    "AttributionLocalisation": MetricSpec(
        "localisation",
        True,
        (0, 1),
        QuantusMetric("AttributionLocalisation", _positive),
        needs_mask=True,
    ),
    "GridPointingGame": MetricSpec(
        "localisation",
        True,
        (0, 1),
        grid_pointing_game,
        forwards=1,
        explanations=TILES,
        arrange=arrange,
    ),
    "Sparseness": MetricSpec("complexity", True, (0, 1), QuantusMetric("Sparseness", _absolute)),
    "Complexity": MetricSpec(
        "complexity", False, (0, math.inf), QuantusMetric("Complexity", _absolute)
    ),
    "RandomLogit": MetricSpec(
        "randomisation",
        False,
        (-1, 1),
        QuantusMetric("RandomLogit", _classes, classes=other_classes),
        explanations=1,
    ),
    "Completeness": MetricSpec("axiomatic", False, (0, math.inf), completeness_gap, forwards=2),
    **TRUTH,
}
"""All metrics by name; add your own to have it scored."""
