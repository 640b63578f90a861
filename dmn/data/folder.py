"""Images in one folder per class, with or without masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

import numpy as np

from dmn.data.files import (
    Sample,
    copies,
    count_pictures,
    divide,
    folders,
    interleave_classes,
    list_images,
    read_mask,
    require_masks,
)
from dmn.data.images import Channels, ImageDataset, ImageModule
from dmn.errors import DataError, OptionError, UnreadableImageError
from dmn.io.options import require
from dmn.io.pictures import Picture, picture_traits, read_picture

NAMES = {  # of the folders of parts, in any case
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
SAMPLED = 100  # images whose heads are read to find size and channels
SMALLEST, LARGEST = 32, 224  # pixels, to which others are scaled if no size is asked for
log = logging.getLogger(__name__)


class Folder(ImageModule):
    """Your own images, in one folder per class: root/class/..., or root/train/class/... and so on.

    The folders of the parts are called train or training; validation, val or valid; test or
    testing, in upper or lower case. A part without its own folder is a share of the training
    images, the same for every class. If that would leave a part empty, because the classes have few
    images, it is a share of all images together. Copies of a file, under any names, then stay in
    one part and count as one. Parts with folders of their own are not changed. Hidden files and
    folders, whose names begin with a dot, are left out, and so are the folders `__MACOSX` and
    `@eaDir`. Folders beside those of the parts, and pictures beside the folders of the classes, are
    not used; a log message names them.

    Args:
        root: The folder.
        size: Side of the square that images are cropped to, in pixels; None for the median of their
            shorter sides, at least 32 and at most 224.
        channels: 1 for grey images, 3 for RGB; None for 1 if all images are grey, else 3. Unknown
            size and channels are found from the heads of 100 training images.
        mean: Means by which channels are normalised; None for both keeps images in [0, 1].
        std: Standard deviations by which channels are normalised.
        masks: Folder with a .png for each validation and test image, at the path that the image has
            in `root`; pixels other than 0 are evidence. None for no masks. Images are rotated as
            their EXIF tag says, and masks show the rotated image.
        validation_share: Share of the images for validation, if it has no folder.
        test_share: Share of the images for the test, if it has no folder.
        batch_size: Images per batch.
        augment: Crop and flip training images at random.
        seed: For splits, order and augmentation.
        num_workers: Number of processes that load data.

    Raises:
        OptionError: if only one of mean and std is given, or not one number for each channel.
        DataError: if there is no such folder or no class in it; if a part or a class has no image,
            or a part has a class that is not in training; if a mask is missing.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from dmn.data import Folder
        >>> with TemporaryDirectory() as root:
        ...     for grey in range(20):
        ...         path = Path(root, "dark" if grey < 10 else "bright", f"{grey}.png")
        ...         path.parent.mkdir(exist_ok=True)
        ...         Image.new("L", (64, 48), grey).save(path)
        ...     data = Folder(root)
        ...     data.setup("fit")
        >>> data.classes, data.size, data.channels
        (('bright', 'dark'), 48, 1)
        >>> len(data.train), len(data.validation), len(data.test)
        (14, 2, 4)
    """

    def __init__(
        self,
        root: str,
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        mean: Channels | None = None,
        std: Channels | None = None,
        masks: str | None = None,
        validation_share: float = 0.1,
        test_share: float = 0.2,
        batch_size: int = 32,
        augment: bool = True,
        seed: int = 0,
        num_workers: int = 4,
    ) -> None:
        super().__init__(mean, std, batch_size, augment, seed, num_workers)
        require("data.size", size, 1)
        if not (min(validation_share, test_share) >= 0 and validation_share + test_share < 1):
            raise OptionError(
                f"validation_share is {validation_share} and test_share {test_share}; "
                "neither may be negative, and together they must leave something to train with"
            )
        self.root, self.size, self.masks = Path(root), size, masks
        self.channels = channels
        self.shares = {"validation": validation_share, "test": test_share}

    def inspect(self) -> None:
        """Find the classes and, where they are None, the size and the channels of the images."""
        training, _ = self._find_classes()
        unknown = self.size is None or self.channels is None
        self._find_traits(list_images(training, self.classes, True, tell=False) if unknown else [])

    def _find_traits(self, images: list[Sample]) -> None:
        """Set size and channels by the training images, where they are None."""
        if self.size is None or self.channels is None:
            sides, channels = zip(*_sample_traits(images), strict=True)
            self.size = self.size or min(max(median_low(sides), SMALLEST), LARGEST)
            self.channels = self.channels or max(channels)
        for option, values in {"mean": self.mean, "std": self.std}.items():
            if values is not None and len(values) != self.channels:
                raise OptionError(
                    f"data.{option} has {len(values)} numbers, the images have {self.channels} "
                    "channels; give one number for each"
                )

    def setup(self, stage: str) -> None:
        """List the images and split them."""
        training, parts = self._find_classes()
        self._tell_unused(training, parts)
        shares = [0.0 if part in parts else share for part, share in self.shares.items()]
        images = list_images(training, self.classes, True)
        self._find_traits(images)
        copied = copies([path for path, _ in images]) if any(shares) else {}
        *parts_drawn, train = divide(images, shares, self.seed, copied)
        samples = dict(zip(self.shares, parts_drawn, strict=True))
        samples |= {
            part: list_images(folder, self.classes, False) for part, folder in parts.items()
        }
        self.train = self._part_images("train", train)
        self.validation, self.test = (
            self._part_images(part, interleave_classes(samples[part]), self.masks)
            for part in self.shares
        )

    def _find_classes(self) -> tuple[Path, dict[str, Path]]:
        """Set the classes; return the folder of training images, and those of other parts."""
        if not os.path.isdir(self.root):
            raise DataError(
                f"{self.root.resolve()}: there is no such folder; put images there as "
                "class/name.jpg, or give another folder (data.root)"
            )
        parts = self._part_folders()
        training = parts.pop("train", self.root)
        self.classes = tuple(folders(training))
        if not self.classes or (parts and training == self.root):
            raise DataError(
                f"{self.root.resolve()} has no classes to train with; put images there as "
                "class/name.jpg, or as train/class/name.jpg, validation/class/name.jpg and "
                "test/class/name.jpg"
            )
        return training, parts

    def _part_folders(self) -> dict[str, Path]:
        """Return the folders that contain class folders; one with images only is itself a class."""
        present = [name for name in folders(self.root) if folders(self.root / name)]
        return {
            part: self.root / name
            for part, names in NAMES.items()
            for wanted in reversed(names)
            for name in present
            if name.lower() == wanted
        }

    def _tell_unused(self, training: Path, parts: dict[str, Path]) -> None:
        """Log the folders and pictures that lie where none is looked for."""
        used = {path.name for path in (training, *parts.values())}
        if training != self.root and (unused := sorted({*folders(self.root)} - used)):
            log.warning(
                "%s: not used: %s; a part of the data is called train, val or test, and holds "
                "folders of classes",
                self.root,
                ", ".join(unused),
            )
        if count := count_pictures(training):
            log.warning("%s: not used: %d pictures beside the folders of classes", training, count)

    def _part_images(
        self, part: str, samples: list[Sample], masks: str | None = None
    ) -> ImageDataset:
        if not samples:
            raise DataError(
                f"{self.root.resolve()}: no images for {part}; add some, or change "
                "validation_share and test_share"
            )
        assert self.size is not None  # by inspect
        options: dict[str, Any] = {"read": _read_grey if self.channels == 1 else read_picture}
        if masks is not None:
            mask_path = partial(_mask_path, self.root, Path(masks))
            require_masks(samples, mask_path)
            options["masks"] = partial(_read_mask, mask_path)
        return self._photographs(samples, self.size, **options)


def _sample_traits(samples: list[Sample]) -> list[tuple[int, int]]:
    """Return the shorter side and the channels of some images, evenly chosen.

    Raises:
        UnreadableImageError: if none of them can be read.
    """
    traits, failure = [], None
    for path, _ in samples[:: max(1, len(samples) // SAMPLED)]:
        try:
            traits.append(picture_traits(path))
        except UnreadableImageError as error:  # reported where it is used
            failure = error
    if not traits and failure:
        raise failure
    return traits


def _read_grey(path: str) -> Picture:
    return read_picture(path).convert("L")


def _mask_path(root: Path, masks: Path, source: str) -> Path:
    return masks / Path(source).relative_to(root).with_suffix(".png")


def _read_mask(mask_path: Callable[[str], Path], source: str) -> Picture:
    return read_mask(mask_path(source), _not_black, upright=True)


def _not_black(picture: Picture) -> Any:
    channels = np.atleast_3d(np.asarray(picture))
    return channels[..., : len(picture.getbands()) - picture.mode.endswith("A")].any(-1)
