"""Image files: which there are in class folders, their masks, and dividing them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from dmn.errors import DataError
from dmn.io.pictures import Picture, decode

log = logging.getLogger(__name__)

Sample = tuple[Any, int]  # a source, such as a path, and its class
LITTER = ("__MACOSX", "@eaDir")  # folders that archives and file servers put copies in
SOUGHT = 100_000  # files among which copies are looked for
END = 4096  # bytes at the end of a picture, which differ from most other pictures'


def folders(folder: Path) -> list[str]:
    """Name the folders in a folder, sorted, but hidden ones; none where that is none itself."""
    inside = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    return [it.name for it in inside if os.path.isdir(it) and not _is_hidden(it.name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def list_images(folder: Path, classes: Sequence[str], of_each: bool) -> list[Sample]:
    """List the images in class folders, by class and name: paths and indices of classes.

    What is hidden is no image, nor is what lies in a hidden folder.

    Args:
        folder: Holds the class folders; links are followed.
        classes: Their names.
        of_each: Refuse a class without images.

    Raises:
        DataError: names folders that are none of the classes, a class without images, or a link
            that leads back to where it lies in.
    """
    if other := sorted(set(folders(folder)) - set(classes)):
        raise DataError(
            f"{folder}: no class is called {', '.join(other)}; remove these folders, or give "
            "every part of the data the same classes"
        )
    found = {name: _images_below(folder / name) for name in classes}
    if of_each and (empty := [str(folder / name) for name in classes if not found[name]]):
        raise DataError(f"no image in {', '.join(empty[:5])}; add some, or remove the class")
    indices = {name: index for index, name in enumerate(classes)}
    return [(path, indices[name]) for name in sorted(classes) for path in found[name]]


def _images_below(folder: Path) -> list[str]:
    found = []
    for place, inside, names in os.walk(folder, followlinks=True):
        inside[:] = (name for name in inside if not _is_hidden(name))
        real = Path(place).resolve()
        for link in (Path(place, name) for name in inside if os.path.islink(f"{place}/{name}")):
            if link.resolve() in (real, *real.parents):
                raise DataError(f"{link} leads back to {link.resolve()}; remove that link")
        shown = (name for name in names if not _is_hidden(name))
        found.append((place, sorted(it for it in shown if it.lower().endswith(IMG_EXTENSIONS))))
    return [os.path.join(place, name) for place, names in sorted(found) for name in names]


def require_masks(samples: Sequence[Sample], place: Callable[[str], Path]) -> None:
    """Refuse images that have no mask.

    Args:
        samples: Paths and classes.
        place: From the path of an image to that of its mask.

    Raises:
        DataError: names the first mask that is missing.
    """
    for source, _ in samples:
        if not os.path.isfile(place(source)):
            raise DataError(f"{place(source)}: there is no such mask, and {source} needs it")


def read_mask(path: Path, evidence: Callable[[Picture], Any], upright: bool) -> Picture:
    """Read a mask as a picture of 0 and 255.

    Args:
        path: Of the file.
        evidence: From the picture to where the evidence is: an array (H, W) of booleans.
        upright: Turn it as its EXIF tag says, should it have one.

    Raises:
        UnreadableImageError: names the file.
    """
    return decode(
        path, lambda it: Image.fromarray(np.uint8(255) * np.asarray(evidence(it))), upright
    )


def interleave_classes(samples: Sequence[Sample]) -> list[Sample]:
    """Order samples so that the classes take turns: the first n are balanced for every n."""
    met: Counter[int] = Counter()
    keys = []
    for _, label in samples:
        keys.append((met[label], label))
        met[label] += 1
    return [samples[index] for index in sorted(range(len(samples)), key=keys.__getitem__)]


def copies(paths: Sequence[str]) -> dict[int, int]:
    """Find the files that hold the same bytes as an earlier one.

    Only those are read whole that have the size and the end of another; one that cannot be read is
    no copy. Among more than `SOUGHT` files none are looked for, which would take minutes.

    Args:
        paths: Of the files.

    Returns:
        Index of a copy → that of the first file like it.
    """
    if len(paths) > SOUGHT:
        log.warning("copies are not looked for among %d files; keep them out yourself", len(paths))
        return {}
    alike = [list(range(len(paths)))]
    for trait in (os.path.getsize, _end, _digest):
        groups: defaultdict[tuple[int, Any], list[int]] = defaultdict(list)
        for number, group in enumerate(alike):
            for index in group:
                groups[number, _readable(trait, paths[index])].append(index)
        alike = [group for group in groups.values() if len(group) > 1]
    return {index: first for first, *others in alike for index in others}


def _readable(trait: Callable[[str], Any], path: str) -> Any:
    try:
        return trait(path)
    except OSError:  # told where the image is needed
        return path


def _end(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - END))
        return file.read()


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def divide(
    samples: Sequence[Sample],
    shares: Sequence[float],
    seed: int,
    follow: Mapping[int, int] | None = None,
) -> list[list[Sample]]:
    """Divide samples at random, each class by the same shares.

    Args:
        samples: Sources and classes.
        shares: Of the parts but the last, which is what remains; they sum to at most 1.
        seed: Fixes the division; not negative.
        follow: Index of a sample → that of another, to whose part it goes without being counted.

    Returns:
        One part a share, and the rest; each in the samples' order.
    """
    follow = follow or {}
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(samples)):
        if index not in follow:
            members[samples[index][1]].append(int(index))
    parts: list[list[int]] = [[] for _ in (*shares, "the rest")]
    for own in members.values():
        edges = [0, *(round(len(own) * total) for total in accumulate(shares)), len(own)]
        for part, (start, end) in zip(parts, pairwise(edges), strict=True):
            part += own[start:end]
    for part in parts:
        held = set(part)
        part += [index for index, first in follow.items() if first in held]
    return [[samples[index] for index in sorted(part)] for part in parts]
