"""The metric table: what each Quantus metric measures, which way is better, and how it is set.

Everything that reads a score reads its direction, range and needs here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dmn.errors import DmnError

Category = Literal["faithfulness", "robustness", "localisation", "complexity", "randomisation"]

FLIPPING_STEPS = 32  # at most; Quantus' default is one forward a pixel and channel
SENSITIVITY_SAMPLES = 10  # Quantus' default is 200, minutes of it in an internal check


class UnknownMetricError(DmnError, KeyError):
    """A metric that is not in the table; names those that are."""


@dataclass(frozen=True)
class MetricSpec:
    """One row of the metric table.

    Attributes:
        category: Quantus' category of what is measured.
        higher_is_better: Direction.
        range: Least and greatest possible score.
        name: Of the class in Quantus.
        options: Makes its arguments from the image's shape (C, H, W) and the number of classes.
        needs_mask: Whether it compares with a mask.
        normalise: Whether maps are divided by their largest absolute value first, one by one.
        finish: Turns what Quantus returns for one image into its score.
        constant_score: What a constant map scores; None drops it.
    """

    category: Category
    higher_is_better: bool
    range: tuple[float, float]
    name: str
    options: Callable[[tuple[int, int, int], int], dict[str, Any]]
    needs_mask: bool = False
    normalise: bool = True
    finish: Callable[[Any], float] = float
    constant_score: float | None = None

    def build(self, shape: tuple[int, int, int], classes: int) -> Any:
        """Make a new Quantus metric, silent and without its normalisation by the batch maximum.

        Args:
            shape: Of one image, (C, H, W).
            classes: Number of classes.
        """
        import quantus  # takes seconds

        options = {"abs": False, **self.options(shape, classes)}
        return getattr(quantus, self.name)(
            normalise=False, disable_warnings=True, display_progressbar=False, **options
        )


def features_in_step(shape: tuple[int, int, int]) -> int:
    """Return the least number of pixels to flip at once that needs at most `FLIPPING_STEPS`.

    Args:
        shape: Of one image, (C, H, W); Quantus wants a divisor of H x W.
    """
    pixels = shape[1] * shape[2]
    divisors = (size for size in range(1, pixels + 1) if pixels % size == 0)
    return next(
        size for size in divisors if math.prod(shape) / size <= FLIPPING_STEPS or size == pixels
    )


def metric_specs(names: Iterable[str]) -> dict[str, MetricSpec]:
    """Look metrics up in the table.

    Args:
        names: Keys of `METRICS`.

    Raises:
        UnknownMetricError: names the metrics that there are.
    """
    chosen = list(names)
    if unknown := [name for name in chosen if name not in METRICS]:
        raise UnknownMetricError(f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    return {name: METRICS[name] for name in chosen}


def forget_models() -> None:
    """Empty the caches by which Quantus keeps every model it has seen alive."""
    from quantus.helpers.model.pytorch_model import PyTorchModel

    for method in ("_get_last_softmax_layer_index", "_get_model_with_linear_top"):
        getattr(PyTorchModel, method).cache_clear()


def _area_under_curve(curve: Any) -> float:
    """Integrate a curve over [0, 1]; Quantus calls a function that numpy has dropped."""
    return float(np.trapezoid(np.asarray(curve, dtype=float)) / (len(curve) - 1))


def _pixel_flipping(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    return {
        "features_in_step": features_in_step(shape),
        "perturb_baseline": 0.0,  # "black" and "mean" drift with what is already flipped
        "return_auc_per_sample": False,
    }


def _max_sensitivity(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    return {"nr_samples": SENSITIVITY_SAMPLES, "lower_bound": 0.2}


def _random_logit(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    return {"num_classes": classes, "seed": 0}


def _as_it_is(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    return {}


def _absolute(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    return {"abs": True}


METRICS: dict[str, MetricSpec] = {
    "PixelFlipping": MetricSpec(
        "faithfulness", False, (0, 1), "PixelFlipping", _pixel_flipping, finish=_area_under_curve
    ),
    "MaxSensitivity": MetricSpec(
        "robustness", False, (0, math.inf), "MaxSensitivity", _max_sensitivity, normalise=False
    ),
    "PointingGame": MetricSpec(
        "localisation",
        True,
        (0, 1),
        "PointingGame",
        _as_it_is,
        needs_mask=True,
        constant_score=0.0,  # Quantus counts it as a hit
    ),
    "RelevanceRankAccuracy": MetricSpec(
        "localisation", True, (0, 1), "RelevanceRankAccuracy", _as_it_is, needs_mask=True
    ),
    "Sparseness": MetricSpec("complexity", True, (0, 1), "Sparseness", _absolute),
    "RandomLogit": MetricSpec("randomisation", False, (-1, 1), "RandomLogit", _random_logit),
}
"""Metric by the name it is logged under."""
