"""Which class an explanation is for, and how probable it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from reprlib import repr as shortened
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmn.errors import TargetError, UnknownNameError
from dmn.nn import Pair, check_target, eval_mode, predict_logits

Classes = int | str | Sequence[int] | Sequence[str] | NDArray[Any] | Tensor | None
"""A class for all images or one per image, by index or by name; None for the predicted class."""


@dataclass(frozen=True, eq=False)
class Against:
    """Why one class and not another: the target of an explanation of the two logits' difference.

    Methods that explain a class take it in place of one. Positive values of the map speak for the
    class over its rival, negative ones for the rival over the class.

    Args:
        target: The class, for all images or one per image, by index or by name; None for the
            predicted one.
        rival: The other class, likewise; None for the most probable one besides the target.

    Examples:
        >>> pair = dmn.load("mnist_paired").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> maps, swapped = (SplitCAM(pair)(x, Against(*two)) for two in [(3, 8), (8, 3)])
        >>> torch.allclose(maps, -swapped)
        True
    """

    target: Classes = None
    rival: Classes = None


Target = Classes | Against
"""A class for all images or one per image, by index or by name; None for the predicted class;
`Against` for a class and its rival."""
SHOWN = 3  # names, where none is close


@torch.no_grad()
def resolve_target(
    model: nn.Module | Pair, x: Tensor, target: Target, classes: Sequence[str] | None = None
) -> Tensor:
    """Turn a target into one class index per image.

    Args:
        model: The classifier. It is called only if the target is None, in eval mode.
        x: Images (B, C, H, W).
        target: A class index for all images; a list, array or tensor (B,) with one per image; or
            None for the predicted classes. The only class of a network with one logit is 0. Names
            of classes may stand for indices. `Against` for two classes for each image.
        classes: The name of each class; by default the model's attribute `classes`.

    Returns:
        Class indices (B,), on the images' device; of `Against` classes and their rivals, (B, 2).

    Raises:
        UnsupportedError: if the model does not return logits; see `dmn.nn.predict_logits`.
        DataError: if the images do not fit the model.
        TargetError: for something that is not an index, or not one per image; or if a class is its
            own rival. Indices that are too large are found later, by `dmn.nn.check_target`.
        UnknownNameError: if no class has the name; names those that are close.

    Examples:
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> resolve_target(nn.Flatten(), x, "cat", classes=["dog", "cat"])
        tensor([1, 1])
    """
    classes = class_names(model) if classes is None else classes
    if isinstance(target, Against):
        return _resolve_both(model, x, target, classes)
    if target is None:
        with eval_mode(model):
            return predict_logits(model, x).argmax(dim=1)
    return class_indices(x, target, classes)


def _resolve_both(
    model: nn.Module | Pair, x: Tensor, against: Against, classes: Sequence[str]
) -> Tensor:
    """Return classes and their rivals, (B, 2)."""
    given = [
        None if each is None else class_indices(x, each, classes)
        for each in (against.target, against.rival)
    ]
    target, rival = given
    if target is None or rival is None:
        with eval_mode(model):
            logits = predict_logits(model, x)
        target = logits.argmax(dim=1) if target is None else target
        check_target(logits, target, contrast=True)
        others = logits.scatter(1, target[:, None], -torch.inf)
        rival = others.argmax(dim=1) if rival is None else rival
    if (same := target == rival).any():
        raise TargetError(f"class {int(target[same][0])} is its own rival; give another class")
    return torch.stack([target, rival], dim=1)


def class_indices(x: Tensor, target: Target, classes: Sequence[str] = ()) -> Tensor:
    """Return one class index per image, as `resolve_target`, for one that is given as a class."""
    indices = _integers(target, classes)
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


def class_names(model: object) -> tuple[str, ...]:
    """Return the names of a model's classes, its attribute `classes`; none if it has none."""
    classes = getattr(model, "classes", None)
    if not isinstance(classes, list | tuple):
        return ()
    return tuple(classes) if all(isinstance(name, str) for name in classes) else ()


def find_class(name: str, classes: Sequence[str]) -> int:
    """Return the index of a class, by its name in any case.

    Args:
        name: As one of the classes', or one of several that a class has, as in "tabby, tabby cat".
        classes: The name of each class, at least one.

    Raises:
        UnknownNameError: if no class has the name, with those that are close; or if several have.
    """
    lower = name.lower()
    found = (
        [index for index, known in enumerate(classes) if known == name]
        or [index for index, known in enumerate(classes) if known.lower() == lower]
        or [index for index, known in enumerate(classes) if lower in known.lower().split(", ")]
    )
    if len(found) == 1:
        return found[0]
    if found:
        indices = ", ".join(map(str, found))
        raise UnknownNameError(f"{len(found)} classes are named {name!r}; give an index: {indices}")
    by_lower_case = {known.lower(): known for known in classes}
    close = [by_lower_case[match] for match in get_close_matches(name.lower(), by_lower_case)]
    shown = close or classes[:SHOWN]
    there = f"there {'is' if len(classes) == 1 else 'are'} {', '.join(shown)}"
    others = " and others" if len(shown) < len(classes) else ""
    raise UnknownNameError(
        f"no class {name!r}; {there}{others}, by name or by index, 0 to {len(classes) - 1}"
    )


def probabilities(logits: Tensor) -> Tensor:
    """Return the classes' probabilities, (B, K): the softmax, or of a single logit the sigmoid."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def _integers(target: Target, classes: Sequence[str]) -> Tensor | None:
    """Return integers, or names' indices, as a tensor; None for anything else, as for booleans."""
    try:
        values = target if isinstance(target, Tensor) else np.asarray(target)
    except (TypeError, ValueError):  # lists of unequal length
        return None
    if isinstance(values, Tensor):
        kinds = (values.is_floating_point(), values.is_complex(), values.dtype == torch.bool)
        return None if any(kinds) else values.long()
    if values.dtype.kind == "U" and classes:
        indices = [find_class(str(name), classes) for name in values.flat]
        return torch.tensor(indices).reshape(values.shape)
    return torch.from_numpy(values.astype(np.int64)) if values.dtype.kind in "iu" else None


def _describe(target: Target) -> str:
    if isinstance(target, Tensor | np.ndarray):
        return f"of {target.dtype}, shape {tuple(target.shape)}"
    return shortened(target)
