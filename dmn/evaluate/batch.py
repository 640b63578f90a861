"""The inputs and outputs of a metric: an explained batch, and its scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmn.errors import DataError, UnsupportedError
from dmn.explain import Explainer
from dmn.nn import check_target, predict_logits

Array = NDArray[Any]
Remake = Callable[[nn.Module, Tensor], Explainer]  # from a network and an example of its images


def as_array(tensor: Tensor) -> Array:
    """Copy a tensor to numpy, half precision as float32: numpy's float16 sums overflow."""
    is_half = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    array: Array = (tensor.float() if is_half else tensor).detach().cpu().numpy()
    return array


@dataclass
class Scores:
    """The scores of one explainer's maps by one metric.

    Attributes:
        values: One score per image, (N,); NaN for images without a score.
        reasons: One text per image: why it was dropped or scored by a rule, "" if it was scored
            normally.
        curves: The probability of the class before and after each step of flipping, (N, steps + 1),
            NaN for images without a score; None for metrics without steps.
        seconds: How long the scoring took.

    Examples:
        >>> from numpy import array, nan
        >>> scores = Scores(array([0.5, 0.25, nan]), ["", "", "map is constant"])
        >>> scores.n, scores.mean, scores.remarks
        (2, 0.375, Counter({'map is constant': 1}))
    """

    values: Array
    reasons: list[str] = field(default_factory=list)
    curves: Array | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.reasons = self.reasons or [""] * len(self.values)

    @property
    def n(self) -> int:
        """The number of images with a score."""
        return int(np.isfinite(self.values).sum())

    @property
    def mean(self) -> float:
        """The mean over the images with a score; NaN if there are none."""
        return float(np.nanmean(self.values)) if self.n else float("nan")

    @property
    def remarks(self) -> Counter[str]:
        """The number of images by the reason why they were dropped or scored by a rule."""
        return Counter(reason for reason in self.reasons if reason)

    def note(self, rows: Iterable[int], reason: str) -> None:
        """Record why the images of these indices were dropped, or scored by a rule."""
        for row in rows:
            self.reasons[row] = reason

    def put(self, rows: Array, part: Scores) -> None:
        """Store the scores of the images of these indices."""
        self.values[rows] = np.where(np.isfinite(part.values), part.values, np.nan)
        for row, value, reason in zip(rows, self.values[rows], part.reasons, strict=True):
            self.reasons[row] = reason or ("the score is not a number" if np.isnan(value) else "")
        if part.curves is not None:
            if self.curves is None:
                self.curves = np.full((len(self.values), part.curves.shape[1]), np.nan)
            self.curves[rows] = part.curves


@dataclass(frozen=True)
class ExplainedBatch:
    """Images, the explained classes and maps, with the model and the explainer.

    Attributes:
        model: The classifier (B, C, H, W) → logits (B, K), in eval mode.
        explainer: The explainer of the maps.
        x: Images (N, C, H, W).
        y: The explained classes, (N,).
        masks: Where the evidence should be, 0 or 1, (N, 1, H, W), or None.
        maps: (N, 1, H, W), float32.
        seed: For all random numbers.
        remake: Makes the same explainer for another network, in eval mode, and an example of its
            images (1, C, H, W); None if that is not known.
    """

    model: nn.Module
    explainer: Explainer
    x: Tensor
    y: Tensor
    masks: Tensor | None
    maps: Tensor
    seed: int
    remake: Remake | None = None

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        return self.logits(self.x[:1]).shape[1]

    def logits(self, x: Tensor) -> Tensor:
        """Return the model's logits of images, (B, K).

        Raises:
            TargetError: if the model does not have an explained class.
        """
        logits = predict_logits(self.model, x)
        check_target(logits, self.y)
        return logits

    def take(self, rows: Array) -> ExplainedBatch:
        """Return the images of these indices only."""
        indices = torch.from_numpy(rows).to(self.x.device)
        masks = None if self.masks is None else self.masks[indices]
        return replace(
            self, x=self.x[indices], y=self.y[indices], masks=masks, maps=self.maps[indices]
        )

    def explain(self, x: Tensor, y: Tensor) -> Tensor:
        """Return maps of other images or classes, (B, 1, H, W), float32.

        Raises:
            DataError: names the shape of the maps and the one they should have.
        """
        maps = self.explainer(x, y)
        if maps.shape != (shape := (len(x), 1, *x.shape[-2:])):
            raise DataError(f"maps of shape {tuple(maps.shape)}; {shape} would do")
        return maps.detach().float()

    @property
    def known_masks(self) -> Tensor:
        """The masks, for scores that need them.

        Raises:
            DataError: if there are none.
        """
        if self.masks is None:
            raise DataError("this score compares maps with masks; give images with masks")
        return self.masks

    def change(self, model: nn.Module, example: Tensor) -> ExplainedBatch:
        """Return the batch with another network, which is explained by the same method.

        Args:
            model: In eval mode.
            example: One of its images, (1, C, H, W).

        Raises:
            UnsupportedError: if it is not known how the explainer was made.
        """
        if self.remake is None:
            raise UnsupportedError(
                "this score explains changed networks, too; give score(..., remake=...)"
            )
        return replace(self, model=model, explainer=self.remake(model, example))
