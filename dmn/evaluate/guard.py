"""The guarded call of Quantus 0.6: no image's score depends on the others in its batch."""

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


def ask(
    metric: Any,
    batch: ExplainedBatch,
    softmax: bool,
    normalise: bool,
    classes: Callable[[ExplainedBatch], Tensor] | None = None,
) -> Array:
    """Ask a Quantus metric about a batch.

    Quantus checks maps by the batch: one batch of zeros, constants or negative values aborts it,
    but a single other map lets all pass. So a witness goes with every batch, whose map passes.

    Args:
        metric: A new one; it keeps what it is asked.
        batch: The images.
        softmax: Whether the metric sees probabilities, rather than logits.
        normalise: Whether maps are divided by their largest absolute value first, one by one.
        classes: Those to explain in place of what the metric asks for, (B,).

    Returns:
        What the metric says of each image, (B,) or (B, steps).
    """

    def prepare(maps: Tensor) -> Array:
        if normalise:
            maps = maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        ramp = torch.linspace(0, 1, maps[0].numel(), device=maps.device)
        return as_array(torch.cat([maps, ramp.view_as(maps[:1])]))

    def explain(model: Any, inputs: Array, targets: Array, **_: Any) -> Array:
        images = torch.from_numpy(np.ascontiguousarray(inputs[:-1])).to(batch.x)
        asked = classes(batch) if classes else torch.from_numpy(targets[:-1]).to(batch.y)
        return prepare(batch.explain(images, asked))

    result = metric(
        model=_Witnessed(batch, softmax).eval(),
        x_batch=_witnessed(batch.x),
        y_batch=_witnessed(batch.y),
        a_batch=prepare(batch.maps),
        s_batch=None if batch.masks is None else _witnessed(batch.masks),
        channel_first=True,
        explain_func=explain,
        softmax=False,
        device=str(batch.x.device),
        batch_size=len(batch.x) + 1,
    )
    return np.asarray(result, dtype=float)[:-1]


class _Witnessed(nn.Module):
    """The model as Quantus sees it: last row not asked, and none of its modules shown.

    Quantus takes any softmax module that was registered last (of attention, say) for the output's.
    """

    def __init__(self, batch: ExplainedBatch, softmax: bool) -> None:
        super().__init__()
        self._batch, self._softmax = batch, softmax

    def forward(self, x: Tensor) -> Tensor:
        logits = self._batch.logits(x[:-1].to(self._batch.x.dtype))
        outputs = probabilities(logits) if self._softmax else logits
        return torch.cat([outputs, outputs[:1]]).float()


def noise(seed: int) -> Callable[..., Array]:
    """Return a `perturb_func`: uniform noise on images, drawn by image, seed and number of call."""
    calls = count()

    def perturb(arr: Array, lower_bound: float, **_: Any) -> Array:
        draws = generators(arr, seed, next(calls))
        shifts = [rng.uniform(-lower_bound, lower_bound, arr.shape[1]) for rng in draws]
        return np.asarray(arr + np.stack(shifts), dtype=arr.dtype)

    return perturb


def subsets(seed: int) -> Callable[..., Array]:
    """Return a `perturb_func`: random features 0, drawn by image, seed and number of call.

    Quantus chooses the features by the place in the batch, and sums the map up over its own array
    of indices afterwards: so the choice is replaced within it.
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
    """Draw for each image a class that is not its own, (B,); all others are as likely."""
    draws = [int(rng.integers(batch.classes - 1)) for rng in generators(batch.x, batch.seed)]
    drawn = torch.tensor(draws).to(batch.y)
    return drawn + (drawn >= batch.y)


def _witnessed(values: Tensor) -> Array:
    """Repeat the first row at the end."""
    return as_array(torch.cat([values, values[:1]]))
