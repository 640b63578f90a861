"""Does a map stay the same when the image changes little and the prediction not at all?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.evaluate.batch import ExplainedBatch, Scores
from dmn.evaluate.rank import rank_correlation
from dmn.explain.draws import generators

DIM = 0.9  # brightness that is left
FADE = 0.9  # contrast that is left
NOISE = 0.02  # standard deviation, as a share of the image's range
STEP = 0.1  # to multiples of which compression rounds, as a share of the image's range
BLOCK = 8  # side in pixels of what is compressed together, as by JPEG


class Perturbation(NamedTuple):
    """A small change of images (B, C, H, W).

    Attributes:
        change: Returns the changed images, from the images and a seed.
        down: By how many pixels the change moves the image down.
        right: By how many pixels it moves the image to the right.
    """

    change: Callable[[Tensor, int], Tensor]
    down: int = 0
    right: int = 0


def stability(batch: ExplainedBatch) -> Scores:
    """Return the mean rank correlation of maps before and after small changes of the image.

    The changes are geometric (a shift by one pixel down or to the right), photometric (brightness
    or contrast), and of quality (noise or compression). Maps of shifted images are shifted back.
    Only changes that leave the predicted class as it was are counted, since a map has to change
    when the prediction does; images without such a change have no score.

    Independent noise scores 0. Maps that do not depend on the image score 1 up to the shift,
    and so do constant maps: that a map is stable does not make it right.

    Source: Subramaniakuppusamy & Gajjar 2026, "Feature Attribution Stability Suite: how stable are
    post-hoc attributions?", of whose three similarities this is one.
    """
    before = _predicted(batch.logits(batch.x))
    similarities, finite = [], torch.ones_like(before, dtype=torch.bool)
    for perturbation in PERTURBATIONS.values():
        x = perturbation.change(batch.x, batch.seed)
        unchanged = _predicted(batch.logits(x)) == before
        maps = batch.explain(x, batch.y)
        finite &= maps.flatten(1).isfinite().all(dim=1) | ~unchanged
        similarity = rank_correlation(*_overlap(batch.maps, maps, perturbation))
        similarities.append(torch.where(unchanged, similarity, torch.nan))
    means = torch.where(finite, torch.stack(similarities).nanmean(dim=0), torch.nan)
    scores = Scores(means.cpu().numpy())
    changed = "every small change of the image changes the predicted class"
    scores.note(np.flatnonzero(np.isnan(scores.values)), changed)
    scores.note(np.flatnonzero(~finite.cpu().numpy()), "map of a changed image is not finite")
    return scores


def _predicted(logits: Tensor) -> Tensor:
    """Return the predicted classes, (B,); a single logit predicts by its sign."""
    return logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()


def _overlap(before: Tensor, after: Tensor, by: Perturbation) -> tuple[Tensor, Tensor]:
    """Cut maps to what both show, the maps after the change shifted back."""
    height, width = before.shape[-2:]
    return (
        before[..., : height - by.down, : width - by.right],
        after[..., by.down :, by.right :],
    )


def _shift_down(x: Tensor, seed: int) -> Tensor:
    return torch.cat([x[..., :1, :], x[..., :-1, :]], dim=-2)


def _shift_right(x: Tensor, seed: int) -> Tensor:
    return torch.cat([x[..., :1], x[..., :-1]], dim=-1)


def _dim(x: Tensor, seed: int) -> Tensor:
    low = x.amin(dim=(1, 2, 3), keepdim=True)
    return low + DIM * (x - low)


def _fade(x: Tensor, seed: int) -> Tensor:
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + FADE * (x - mean)


def _add_noise(x: Tensor, seed: int) -> Tensor:
    draws = [rng.standard_normal(x.shape[1:], dtype=np.float32) for rng in generators(x, seed)]
    noise = torch.from_numpy(np.stack(draws)).to(x)
    return _within(x, x + NOISE * _range(x) * noise)


def _compress(x: Tensor, seed: int) -> Tensor:
    """Round the cosine transform of blocks of 8 x 8 pixels."""
    height, width = x.shape[-2:]
    down, right = -height % BLOCK, -width % BLOCK
    padded = F.pad(x.float(), [0, right, 0, down], mode="replicate")
    blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    waves = _cosines(x.device)
    step = STEP * _range(x).float()[..., None, None].clamp(min=1e-30)
    rounded = step * (waves @ blocks @ waves.T / step).round()
    whole = (waves.T @ rounded @ waves).transpose(3, 4).reshape(padded.shape)
    return _within(x, whole[..., :height, :width].to(x))


def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal cosine transform of 8 values, (8, 8)."""
    places = torch.arange(BLOCK, device=device)
    waves = (math.pi / BLOCK * places[:, None] * (places + 0.5)).cos() * math.sqrt(2 / BLOCK)
    waves[0] /= math.sqrt(2)
    return waves


def _range(x: Tensor) -> Tensor:
    return x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True)


def _within(x: Tensor, changed: Tensor) -> Tensor:
    """Limit changed images to the range of values of the image."""
    low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
    return torch.minimum(torch.maximum(changed, low), high)


PERTURBATIONS = {
    "down": Perturbation(_shift_down, down=1),
    "right": Perturbation(_shift_right, right=1),
    "brightness": Perturbation(_dim),
    "contrast": Perturbation(_fade),
    "noise": Perturbation(_add_noise),
    "compression": Perturbation(_compress),
}
"""Small changes of an image by name."""
