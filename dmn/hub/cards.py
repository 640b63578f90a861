"""Cards and configurations of networks, judged before they are believed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmn.errors import CheckpointError
from dmn.io.yaml import read_yaml

LARGEST_IMAGE = 2**26  # numbers
MOST_CLASSES = 2**20


def read_card(path: Path) -> dict[str, Any]:
    """Read a card (`.json`) or a run's configuration (`.yaml`), without executing code.

    Raises:
        CheckpointError: if it cannot be read.
    """
    content = content_of(path)
    try:
        told = json.loads(content) if path.suffix == ".json" else read_yaml(content)
    except Exception as error:  # nested too deeply, of impossible dates, ...
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    if not isinstance(told, dict):
        raise CheckpointError(f"{path}: holds neither a card nor a configuration")
    return told


def content_of(path: Path) -> bytes:
    """Read a file.

    Raises:
        CheckpointError: if that fails.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def check_card(card: dict[str, Any], path: Path) -> None:
    """Refuse a card that does not tell of a network and its images.

    Args:
        card: Of `read_card`, or made of a run's configuration.
        path: Where it is from.

    Raises:
        CheckpointError: names what is missing or of another type, and says what is wanted.
    """
    for name, (holds, wanted) in _WANTED.items():
        if name not in card or not holds(card[name]):
            raise CheckpointError(f"{path}: {name!r} must be {wanted}")
    channels = (card["size"] or [0])[0]
    for name in ("mean", "std"):
        if channels and card[name] and len(card[name]) not in (1, channels):
            raise CheckpointError(f"{path}: {name!r} must be of {channels} channels")


def count_of_classes(told: Any) -> int:
    """Return a number of classes that names can be made for.

    Raises:
        ValueError: if it is none.
    """
    if type(told) is not int or not 0 < told <= MOST_CLASSES:
        raise ValueError(f"'num_classes' must be a number from 1 to {MOST_CLASSES}")
    return told


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < math.inf


def _is_size(value: Any) -> bool:
    sides = isinstance(value, list) and all(type(side) is int and side > 0 for side in value)
    return value is None or (sides and len(value) == 3 and math.prod(value) <= LARGEST_IMAGE)


def _is_scale(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and value != [] and all(map(_is_number, value))
    )


_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "net": (lambda v: isinstance(v, dict), "a class path and its arguments"),
    "classes": (
        lambda v: isinstance(v, list) and v != [] and all(isinstance(each, str) for each in v),
        "a list of names",
    ),
    "size": (_is_size, f"channels, height and width, together at most {LARGEST_IMAGE}, or null"),
    "mean": (_is_scale, "a list of numbers, or null"),
    "std": (
        lambda v: _is_scale(v) and all(each > 0 for each in v or ()),
        "a list of positive numbers, or null",
    ),
}
