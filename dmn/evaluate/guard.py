"""Calls of Quantus 0.6 in which no image's score depends on the other images of its batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmn.evaluate.batch import Array, ExplainedBatch, as_array
from dmn.explain.draws import generators
from dmn.explain.target import probabilities


def evaluate_metric(
    metric: Any,
    batch: ExplainedBatch,
    softmax: bool,
    normalise: bool,
    classes: Callable[[ExplainedBatch], Tensor] | None = None,
) -> Array:
    """Evaluate a Quantus metric on a batch.

    Quantus checks the maps of a batch together: a batch of zeros, constants or negative values
    raises, but one valid map lets the whole batch pass. So every batch gets a witness, an extra
    image whose map is valid.

    Args:
        metric: A new metric; it stores its inputs.
        batch: The images.
        softmax: Whether the metric sees probabilities rather than logits.
        normalise: Whether each map is first divided by its largest absolute value.
        classes: The classes to explain instead of those the metric asks for, (B,).

    Returns:
        The metric's values for each image, (B,) or (B, steps).
    """

    def prepare(maps: Tensor) -> Array:
        if normalise:
            maps = maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        ramp = torch.linspace(0, 1, maps[0].numel(), device=maps.device)
        return as_array(torch.cat([maps, ramp.view_as(maps[:1])]))

    def explain(model: Any, inputs: Array, targets: Array, **_: Any) -> Array:
        images = torch.from_numpy(np.ascontiguousarray(inputs[:-1])).to(batch.x)
        explained = classes(batch) if classes else torch.from_numpy(targets[:-1]).to(batch.y)
        return prepare(batch.explain(images, explained))

    result = metric(
        model=_ModelWithWitness(batch, softmax).eval(),
        x_batch=_with_witness(batch.x),
        y_batch=_with_witness(batch.y),
        a_batch=prepare(batch.maps),
        s_batch=None if batch.masks is None else _with_witness(batch.masks),
        channel_first=True,
        explain_func=explain,
        softmax=False,
        device=str(batch.x.device),
        batch_size=len(batch.x) + 1,
    )
    return np.asarray(result, dtype=float)[:-1]


class _ModelWithWitness(nn.Module):
    """The model as Quantus sees it: the witness is not evaluated, and no modules are visible.

    Quantus takes a softmax module that was registered last (such as attention's) for the output's.
    """

    def __init__(self, batch: ExplainedBatch, softmax: bool) -> None:
        super().__init__()
        self._batch, self._softmax = batch, softmax

    def forward(self, x: Tensor) -> Tensor:
        logits = self._batch.logits(x[:-1].to(self._batch.x.dtype))
        outputs = probabilities(logits) if self._softmax else logits
        return torch.cat([outputs, outputs[:1]]).float()


def noise(seed: int) -> Callable[..., Array]:
    """Return a `perturb_func` that adds noise, drawn by image, seed and number of the call."""
    calls = count()

    def perturb(arr: Array, lower_bound: float, **_: Any) -> Array:
        draws = generators(arr, seed, next(calls))
        shifts = [rng.uniform(-lower_bound, lower_bound, arr.shape[1]) for rng in draws]
        return np.asarray(arr + np.stack(shifts), dtype=arr.dtype)

    return perturb


def subsets(seed: int) -> Callable[..., Array]:
    """Return a `perturb_func` that zeroes features drawn by image, seed and number of the call.

    Quantus draws the features by position in the batch, and afterwards sums the map over its array
    of indices, so the indices are replaced in place.
    """
    calls = count()

    def perturb(arr: Array, indices: Array, **_: Any) -> Array:
        for row, rng in zip(indices, generators(arr, seed, next(calls)), strict=True):
            row[:] = rng.choice(arr.shape[1], len(row), replace=False)
        perturbed = arr.copy()
        np.put_along_axis(perturbed, indices, 0.0, axis=1)
        return perturbed

    return perturb


def other_classes(batch: ExplainedBatch) -> Tensor:
    """Draw for each image another class, all with equal probability, (B,)."""
    draws = [int(rng.integers(batch.classes - 1)) for rng in generators(batch.x, batch.seed)]
    shifted = torch.tensor(draws).to(batch.y)
    return shifted + (shifted >= batch.y)


def _with_witness(values: Tensor) -> Array:
    """Append the first row as witness."""
    return as_array(torch.cat([values, values[:1]]))
