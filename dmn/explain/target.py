"""Which class an explanation is for, and how probable it is."""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import repr as shortened
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmn.errors import TargetError
from dmn.nn import Pair, eval_mode, predict_logits

Target = int | Sequence[int] | NDArray[Any] | Tensor | None


@torch.no_grad()
def resolve_target(model: nn.Module | Pair, x: Tensor, target: Target) -> Tensor:
    """Turn a target into one class index per image.

    Args:
        model: The classifier, called in eval mode, and only if the target is None.
        x: Images (B, C, H, W).
        target: A class index for all images, a list, array or tensor of one for each (B,), or None
            for the predicted ones. Of a network with one logit the only class is 0.

    Returns:
        Class indices (B,), on the images' device.

    Raises:
        UnsupportedError, DataError: where the model cannot be run; see `dmn.nn.predict_logits`.
        TargetError: if something is not an index, or there is not one per image. Indices that are
            too large are found later, by `dmn.nn.check_target`.
    """
    if target is None:
        with eval_mode(model):
            return predict_logits(model, x).argmax(dim=1)
    return class_indices(x, target)


def class_indices(x: Tensor, target: Target) -> Tensor:
    """Return one class index per image, as `resolve_target`, for a target that is not None."""
    indices = _integers(target)
    if indices is None:
        raise TargetError(
            f"target is {_describe(target)}; give the index of a class, or a list, array or tensor "
            "of one integer for each image"
        )
    if indices.shape not in ((), (len(x),)):
        raise TargetError(
            f"target has the shape {tuple(indices.shape)}, of {len(x)} images; give one index for "
            f"all of them, or ({len(x)},), one for each"
        )
    if (indices < 0).any():
        raise TargetError(f"target {int(indices.min())} is negative; classes are counted from 0")
    return indices.to(x.device).expand(len(x))


def probabilities(logits: Tensor) -> Tensor:
    """Return the classes' probabilities, (B, K): the softmax, or of a single logit the sigmoid."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def _integers(target: Target) -> Tensor | None:
    """Return integers as a tensor, and None for anything else, such as booleans."""
    try:
        values = target if isinstance(target, Tensor) else np.asarray(target)
    except (TypeError, ValueError):  # lists of unequal length
        return None
    if isinstance(values, Tensor):
        kinds = (values.is_floating_point(), values.is_complex(), values.dtype == torch.bool)
        return None if any(kinds) else values.long()
    return torch.from_numpy(values.astype(np.int64)) if values.dtype.kind in "iu" else None


def _describe(target: Target) -> str:
    if isinstance(target, Tensor | np.ndarray):
        return f"of {target.dtype}, shape {tuple(target.shape)}"
    return shortened(target)
