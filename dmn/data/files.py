"""Image files: which there are in class folders, reading them, and dividing them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from dmn.errors import DmnError

Picture = Image.Image
Sample = tuple[Any, int]  # a source, such as a path, and its class
Result = TypeVar("Result")


class LayoutError(DmnError, ValueError):
    """Folders that are not as they should be; says what was expected."""


class UnreadableImageError(DmnError, ValueError):
    """A file that is no image; names it."""


class MaskError(DmnError, ValueError):
    """A mask that is missing, or not as large as its image; names the file."""


def folders(folder: Path) -> list[str]:
    """Name the folders in a folder, sorted; none where that is none itself."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [it.name for it in inside if it.is_dir() and not it.name.startswith(".")]


def list_images(folder: Path, classes: Sequence[str]) -> list[Sample]:
    """List the images in class folders, by class and name: paths and indices of classes.

    Raises:
        LayoutError: names folders that are none of the classes.
    """
    if other := sorted(set(folders(folder)) - set(classes)):
        raise LayoutError(
            f"{folder}: no class is called {', '.join(other)}; remove these folders, or give "
            "every part of the data the same classes"
        )
    indices = {name: index for index, name in enumerate(classes)}
    found: list[Sample] = make_dataset(
        str(folder), indices, extensions=IMG_EXTENSIONS, allow_empty=True
    )
    return found


def require_masks(samples: Sequence[Sample], place: Callable[[str], Path]) -> None:
    """Refuse images that have no mask.

    Args:
        samples: Paths and classes.
        place: From the path of an image to that of its mask.

    Raises:
        MaskError: names the first mask that is missing.
    """
    for source, _ in samples:
        if not place(source).is_file():
            raise MaskError(f"{place(source)}: there is no such mask, and {source} needs it")


def read_rgb(path: str) -> Picture:
    """Read an image of any 8-bit mode as RGB.

    Raises:
        UnreadableImageError: names the file.
    """

    def convert(picture: Picture) -> Picture:
        if picture.mode.startswith(("I", "F")):  # Pillow would clip these to white
            raise ValueError(f"its mode is {picture.mode}; save it with 8 bits a channel")
        # Pillow warns of a palette's transparency, unless it is made a channel first
        return (picture.convert("RGBA") if picture.mode == "P" else picture).convert("RGB")

    return _read(path, convert)


def read_mask(path: Path, evidence: Callable[[Picture], Any]) -> Picture:
    """Read a mask as a picture of 0 and 255.

    Args:
        path: Of the file.
        evidence: From the picture to where the evidence is: an array (H, W) of booleans.

    Raises:
        UnreadableImageError: names the file.
    """
    return _read(path, lambda it: Image.fromarray(np.uint8(255) * np.asarray(evidence(it))))


def _read(path: str | Path, convert: Callable[[Picture], Result]) -> Result:
    try:
        with Image.open(path) as picture:
            return convert(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: cannot be read as an image ({error})") from error


def turns(samples: Sequence[Sample]) -> list[Sample]:
    """Order samples so that the classes take turns: the first n are balanced for every n."""
    met: Counter[int] = Counter()
    keys = []
    for _, label in samples:
        keys.append((met[label], label))
        met[label] += 1
    return [samples[index] for index in sorted(range(len(samples)), key=keys.__getitem__)]


def divide(samples: Sequence[Sample], shares: Sequence[float], seed: int) -> list[list[Sample]]:
    """Divide samples at random, each class by the same shares.

    Args:
        samples: Sources and classes.
        shares: Of the parts but the last, which is what remains; they sum to at most 1.
        seed: Fixes the division; not negative.

    Returns:
        One part a share, and the rest; each in the samples' order.
    """
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(samples)):
        members[samples[index][1]].append(int(index))
    parts: list[list[int]] = [[] for _ in (*shares, "the rest")]
    for own in members.values():
        edges = [0, *(round(len(own) * total) for total in accumulate(shares)), len(own)]
        for part, (start, end) in zip(parts, pairwise(edges), strict=True):
            part += own[start:end]
    return [[samples[index] for index in sorted(part)] for part in parts]
