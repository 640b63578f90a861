"""What a metric is asked about, and what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmn.errors import DataError
from dmn.explain import Explainer
from dmn.nn import check_target

Array = NDArray[Any]


def as_array(tensor: Tensor) -> Array:
    """Copy a tensor to numpy, which has no bfloat16, and whose sums overflow in half precision."""
    narrow = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    array: Array = (tensor.float() if narrow else tensor).detach().cpu().numpy()
    return array


@dataclass
class Scores:
    """What a metric said of one explainer's maps.

    Attributes:
        values: One score an image, NaN where there is none, (N,).
        reasons: Why an image was dropped, or scored by rule; "" where it was simply scored.
        curves: Probability of the class before and after each step of flipping, (N, steps + 1),
            NaN where there is no score; None of metrics without steps.
        seconds: Time spent.
    """

    values: Array
    reasons: list[str] = field(default_factory=list)
    curves: Array | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.reasons = self.reasons or [""] * len(self.values)

    @property
    def n(self) -> int:
        """How many images have a score."""
        return int(np.isfinite(self.values).sum())

    @property
    def mean(self) -> float:
        """Mean over the images that have a score; NaN if none has."""
        return float(np.nanmean(self.values)) if self.n else float("nan")

    @property
    def remarks(self) -> Counter[str]:
        """Why images were dropped, or scored by rule → number of images."""
        return Counter(reason for reason in self.reasons if reason)

    def note(self, rows: Iterable[int], reason: str) -> None:
        """Note why some images, given by their indices, were dropped or scored by rule."""
        for row in rows:
            self.reasons[row] = reason

    def put(self, rows: Array, part: Scores) -> None:
        """Write the scores of some images, given by their indices, in their place."""
        self.values[rows] = np.where(np.isfinite(part.values), part.values, np.nan)
        for row, value, reason in zip(rows, self.values[rows], part.reasons, strict=True):
            self.reasons[row] = reason or ("the score is not a number" if np.isnan(value) else "")
        if part.curves is not None:
            if self.curves is None:
                self.curves = np.full((len(self.values), part.curves.shape[1]), np.nan)
            self.curves[rows] = part.curves


@dataclass(frozen=True)
class ExplainedBatch:
    """Images, the classes explained and their maps; and who answers further questions.

    Attributes:
        model: The classifier (B, C, H, W) → logits (B, K), in eval mode.
        explainer: Gave the maps.
        x: Images (N, C, H, W).
        y: The classes explained, (N,).
        masks: Where the evidence ought to be, 0 or 1, (N, 1, H, W), or None.
        maps: (N, 1, H, W), float32.
        seed: Of all draws.
    """

    model: nn.Module
    explainer: Explainer
    x: Tensor
    y: Tensor
    masks: Tensor | None
    maps: Tensor
    seed: int

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        return self.logits(self.x[:1]).shape[1]

    def logits(self, x: Tensor) -> Tensor:
        """Ask the model about images, (B, K).

        Raises:
            TargetError: if a class explained is none of the model's.
        """
        logits: Tensor = self.model(x)
        check_target(logits, self.y)
        return logits

    def take(self, rows: Array) -> ExplainedBatch:
        """Return the images of these indices only."""
        chosen = torch.from_numpy(rows).to(self.x.device)
        masks = None if self.masks is None else self.masks[chosen]
        return replace(
            self, x=self.x[chosen], y=self.y[chosen], masks=masks, maps=self.maps[chosen]
        )

    def explain(self, x: Tensor, y: Tensor) -> Tensor:
        """Explain other images, or other classes, (B, 1, H, W), float32.

        Raises:
            DataError: names the shape of the maps and the one they should have.
        """
        maps = self.explainer(x, y)
        if maps.shape != (wanted := (len(x), 1, *x.shape[-2:])):
            raise DataError(f"maps of shape {tuple(maps.shape)}; {wanted} would do")
        return maps.detach().float()
