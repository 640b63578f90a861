"""What is known about a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dmn.evaluate.batch import Array, ExplainedBatch, Scores

Category = Literal[
    # of Quantus
    "faithfulness",
    "robustness",
    "localisation",
    "complexity",
    "randomisation",
    "axiomatic",
    # with a known answer
    "disconnection",
    "contributions",
    "patterns",
    "trigger",
    "parts",
    "sanity",
]


@dataclass(frozen=True)
class MetricSpec:
    """What is known about a metric: what it measures, its direction, its cost and its needs.

    Attributes:
        category: What is measured: one of Quantus' categories, or a kind of known answer.
        higher_is_better: Whether a higher score is better.
        range: Lowest and highest possible score.
        measure: Scores a batch.
        forwards: Cost per image: forward passes of the model, at most.
        explanations: Cost per image: further maps, counted in areas of the image.
        needs_mask: Whether images need a mask of where the evidence should be.
        constant_score: The score of a constant map; None drops such maps.
        arrange: Returns the indices of images that are scored together, (G, size), and records why
            others are dropped. None scores every image with a valid map on its own.
        benchmark: The benchmark of `dmn.truth` whose network and images it is measured on; None for
            any network and images.
        signed_mask: Whether the mask holds contributions of any sign and size, not 0 and 1.
        any_map: Whether maps that are constant or nowhere positive are scored as others are.

    Examples:
        >>> from dmn.evaluate import METRICS
        >>> spec = METRICS["Sparseness"]
        >>> spec.category, spec.higher_is_better, spec.range
        ('complexity', True, (0, 1))
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
    benchmark: str | None = None
    signed_mask: bool = False
    any_map: bool = False
