"""Find image files in class folders, read their masks, and split them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmn.errors import DataError
from dmn.io.pictures import Picture, decode, picture_suffixes

log = logging.getLogger(__name__)

Sample = tuple[Any, int]  # a source, such as a path, and its class index
LITTER = ("__MACOSX", "@eaDir")  # folders in which archives and file servers put copies
SOUGHT = 100_000  # most files among which copies are searched
END = 4096  # bytes at the end of a picture, which differ between most pictures


def folders(folder: Path) -> list[str]:
    """Return the sorted names of the visible folders in a folder; empty if it is not a folder."""
    paths = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    return [path.name for path in paths if os.path.isdir(path) and not _is_hidden(path.name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def count_pictures(folder: Path) -> int:
    """Return how many visible pictures lie in a folder itself."""
    names = (path.name for path in folder.iterdir() if os.path.isfile(path))
    return sum(not _is_hidden(name) and _is_picture(name) for name in names)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(picture_suffixes())


def list_images(
    folder: Path, classes: Sequence[str], require_each: bool, tell: bool = True
) -> list[Sample]:
    """Return the images in class folders as pairs of path and class index, by class and name.

    A picture is a file with a suffix of `dmn.io.pictures.FORMATS`, in any case. Others are left out
    and counted in a log message; hidden files and files in hidden folders are left out.

    Args:
        folder: Folder of the class folders; links are followed.
        classes: Names of the class folders.
        require_each: Refuse a class without images.
        tell: Log what is left out.

    Raises:
        DataError: if a folder is not a class, a class has no images, or a link leads back to a
            folder that it is in; names it.
    """
    if other := sorted(set(folders(folder)) - set(classes)):
        raise DataError(
            f"{folder}: no class is called {', '.join(other)}; remove these folders, or give "
            "every part of the data the same classes"
        )
    left_out: Counter[str] = Counter()
    found = {name: _images_below(folder / name, left_out) for name in classes}
    if left_out and tell:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
        log.warning(
            "%s: files that are no pictures by their suffix are left out: %s", folder, kinds
        )
    if require_each and (empty := [str(folder / name) for name in classes if not found[name]]):
        kinds = f" (only {', '.join(sorted(left_out))})" if left_out else ""
        raise DataError(f"no image in {', '.join(empty[:5])}{kinds}; add some, or remove the class")
    indices = {name: index for index, name in enumerate(classes)}
    return [(path, indices[name]) for name in sorted(classes) for path in found[name]]


def _images_below(folder: Path, left_out: Counter[str]) -> list[str]:
    """Return the pictures below a folder; count the suffixes of other visible files."""
    found = []
    for root, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = (name for name in subfolders if not _is_hidden(name))
        real = Path(root).resolve()
        for link in (Path(root, name) for name in subfolders if os.path.islink(f"{root}/{name}")):
            if link.resolve() in (real, *real.parents):
                raise DataError(f"{link} leads back to {link.resolve()}; remove that link")
        visible = [name for name in names if not _is_hidden(name)]
        pictures = sorted(name for name in visible if _is_picture(name))
        left_out.update(
            Path(name).suffix.lower() or "without a suffix" for name in {*visible} - {*pictures}
        )
        found.append((root, pictures))
    return [os.path.join(root, name) for root, names in sorted(found) for name in names]


def require_masks(samples: Sequence[Sample], mask_path: Callable[[str], Path]) -> None:
    """Refuse images that have no mask.

    Args:
        samples: Paths and classes.
        mask_path: Returns the path of the mask for the path of an image.

    Raises:
        DataError: if a mask is missing; names the first one.
    """
    for source, _ in samples:
        if not os.path.isfile(mask_path(source)):
            raise DataError(f"{mask_path(source)}: there is no such mask, and {source} needs it")


def read_mask(path: Path, evidence: Callable[[Picture], Any], upright: bool) -> Picture:
    """Read a mask as a picture of 0 and 255.

    Args:
        path: The file.
        evidence: Returns a boolean array (H, W) for a picture: where the evidence is.
        upright: Rotate it as its EXIF tag says.

    Raises:
        UnreadableImageError: if it cannot be read; names the file.
    """
    return decode(
        path,
        lambda picture: Image.fromarray(np.uint8(255) * np.asarray(evidence(picture))),
        upright,
    )


def interleave_classes(samples: Sequence[Sample]) -> list[Sample]:
    """Interleave the classes of samples, so that the first n are balanced for every n."""
    counts: Counter[int] = Counter()
    keys = []
    for _, label in samples:
        keys.append((counts[label], label))
        counts[label] += 1
    return [samples[index] for index in sorted(range(len(samples)), key=keys.__getitem__)]


def copies(paths: Sequence[str]) -> dict[int, int]:
    """Find the files with the same content as an earlier one.

    Only files with the size and the last bytes of another are read whole. A file that cannot be
    read is not a copy. More than `SOUGHT` files are not searched, which would take minutes.

    Args:
        paths: Paths of the files.

    Returns:
        Index of a copy → index of the first file with the same content.
    """
    if len(paths) > SOUGHT:
        log.warning("copies are not looked for among %d files; keep them out yourself", len(paths))
        return {}
    groups = [list(range(len(paths)))]
    for trait in (os.path.getsize, _last_bytes, _digest):
        by_trait: defaultdict[tuple[int, Any], list[int]] = defaultdict(list)
        for number, group in enumerate(groups):
            for index in group:
                by_trait[number, _trait_or_path(trait, paths[index])].append(index)
        groups = [group for group in by_trait.values() if len(group) > 1]
    return {index: first for first, *others in groups for index in others}


def _trait_or_path(trait: Callable[[str], Any], path: str) -> Any:
    try:
        return trait(path)
    except OSError:  # reported when the image is read
        return path


def _last_bytes(path: str) -> bytes:
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
    """Split samples at random, each class by the same shares.

    If that leaves a part empty, as classes have few samples each, the shares are of all together,
    and of each class one sample at least is in the rest.

    Args:
        samples: Pairs of source and class index.
        shares: Shares of all parts except the last, which is the rest; they sum to at most 1.
        seed: For the random split; not negative.
        follow: Index of a sample → index of another, whose part it joins without being counted.

    Returns:
        One part per share, and the rest, each in the order of the samples.
    """
    follow = follow or {}
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(samples)):
        if index not in follow:
            members[samples[index][1]].append(int(index))
    parts = _cut(members.values(), shares)
    if any(share and not part for share, part in zip(shares, parts, strict=False)):
        several = [index for indices in members.values() for index in indices[1:]]
        single = [indices[0] for indices in members.values()]
        parts = _cut([np.random.default_rng(seed).permutation(several).tolist()], shares)
        parts[-1] += single
    for part in parts:
        members_of_part = set(part)
        part += [index for index, first in follow.items() if first in members_of_part]
    return [[samples[index] for index in sorted(part)] for part in parts]


def _cut(groups: Iterable[list[int]], shares: Sequence[float]) -> list[list[int]]:
    """Cut each group by the shares, and join what is of the same share; the rest is last."""
    parts: list[list[int]] = [[] for _ in (*shares, "the rest")]
    for indices in groups:
        edges = [0, *(round(len(indices) * total) for total in accumulate(shares)), len(indices)]
        for part, (start, end) in zip(parts, pairwise(edges), strict=True):
            part += indices[start:end]
    return parts
