"""The metric table: what each metric measures, which way is better, what it costs, how it is set.

Everything that reads a score reads its direction, range and needs here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dmn.errors import TargetError, UnknownNameError
from dmn.evaluate.batch import Array, ExplainedBatch, Scores, as_array
from dmn.evaluate.completeness import completeness_gap
from dmn.evaluate.grid import TILES, arrange, grid_pointing_game
from dmn.evaluate.guard import ask, noise, other_classes, subsets
from dmn.explain.target import probabilities

Category = Literal[
    "faithfulness", "robustness", "localisation", "complexity", "randomisation", "axiomatic"
]
Options = dict[str, Any]

FLIPPING_STEPS = 32  # at most; Quantus' default is one forward a pixel and channel
PATCHES = 8  # a side of the image
SENSITIVITY_SAMPLES = 10  # Quantus' default is 200, minutes of it in an internal check
SUBSETS = 100  # random ones, each of one in a hundred features


@dataclass(frozen=True)
class MetricSpec:
    """One row of the metric table.

    Attributes:
        category: Quantus' category of what is measured.
        higher_is_better: Direction.
        range: Least and greatest possible score.
        measure: Scores a batch.
        forwards: Cost of one image: how often the model runs on it, at most.
        explanations: Cost of one image: how many maps are asked for beside its own, in areas of
            the image.
        needs_mask: Whether it compares with a mask.
        constant_score: What a constant map scores; None drops it.
        arrange: Groups images that are only scored together, (G, size), by their indices, and
            notes why others are dropped; None scores every image whose map can be, by itself.
    """

    category: Category
    higher_is_better: bool
    range: tuple[float, float]
    measure: Callable[[ExplainedBatch], Scores]
    forwards: int = 0
    explanations: int = 0
    needs_mask: bool = False
    constant_score: float | None = None
    arrange: Callable[[ExplainedBatch, Scores], Array] | None = None


@dataclass(frozen=True)
class QuantusMetric:
    """A metric of Quantus, guarded.

    Attributes:
        name: Of its class.
        options: Makes its arguments from what is asked.
        softmax: Whether it sees probabilities (the sigmoid of a single logit) rather than logits.
        normalise: Whether maps are divided by their largest absolute value first, one by one.
        curve: Whether it returns the class's probability after each step, whose area is the score.
        classes: Those to explain in place of what it draws by the place in the batch.
    """

    name: str
    options: Callable[[ExplainedBatch], Options] = lambda batch: {}
    softmax: bool = True
    normalise: bool = True
    curve: bool = False
    classes: Callable[[ExplainedBatch], Any] | None = None

    def build(self, batch: ExplainedBatch) -> Any:
        """Make a new Quantus metric: silent, one score an image, not normalised by the batch."""
        import quantus  # takes seconds

        options = {"abs": False, "normalise": False, "return_aggregate": False}
        with redirect_stdout(None):  # it prints advice whatever it is told
            return getattr(quantus, self.name)(
                disable_warnings=True, display_progressbar=False, **options | self.options(batch)
            )

    def __call__(self, batch: ExplainedBatch) -> Scores:
        """Score a batch."""
        try:
            said = ask(self.build(batch), batch, self.softmax, self.normalise, self.classes)
        finally:
            _forget_models()
        if not self.curve:
            return Scores(said)
        start = probabilities(batch.logits(batch.x)).gather(1, batch.y.unsqueeze(1))
        return Scores(area_under_curve(said), curves=np.hstack([as_array(start), said]))


def area_under_curve(curves: Array) -> Array:
    """Integrate curves (B, steps) over [0, 1]; Quantus calls a function that numpy has dropped."""
    area: Array = np.trapezoid(curves, axis=1) / (curves.shape[1] - 1)
    return area


def features_in_step(shape: Iterable[int]) -> int:
    """Return the least number of features to flip at once that needs at most `FLIPPING_STEPS`.

    Args:
        shape: Of one image, (C, H, W); Quantus wants a divisor of H x W.
    """
    channels, height, width = shape
    pixels = height * width
    divisors = (size for size in range(1, pixels + 1) if pixels % size == 0)
    return next(
        size for size in divisors if channels * pixels / size <= FLIPPING_STEPS or size == pixels
    )


def metric_specs(names: str | Iterable[str]) -> dict[str, MetricSpec]:
    """Look metrics up in the table.

    Args:
        names: Keys of `METRICS`, or one of them.

    Raises:
        UnknownNameError: names the metrics that there are.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in chosen if name not in METRICS]:
        raise UnknownNameError(f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    return {name: METRICS[name] for name in chosen}


def _forget_models() -> None:
    """Empty the caches by which Quantus keeps every model it has seen alive."""
    from quantus.helpers.model.pytorch_model import PyTorchModel

    for method in ("_get_last_softmax_layer_index", "_get_model_with_linear_top"):
        getattr(PyTorchModel, method).cache_clear()


def _absolute(batch: ExplainedBatch) -> Options:
    return {"abs": True}


def _positive(batch: ExplainedBatch) -> Options:
    return {"positive_attributions": True}


def _pixels(batch: ExplainedBatch) -> Options:
    # "black" and "mean" would drift with what is already flipped
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


METRICS: dict[str, MetricSpec] = {
    "PixelFlipping": MetricSpec(
        "faithfulness",
        False,
        (0, 1),
        QuantusMetric("PixelFlipping", _pixels, curve=True),
        forwards=FLIPPING_STEPS + 1,
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
}
"""Metric by the name it is logged under."""
