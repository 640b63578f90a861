"""Any images sorted into one folder a class, with masks or without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dmn.data.files import (
    Sample,
    copies,
    divide,
    folders,
    interleave_classes,
    list_images,
    read_mask,
    require_masks,
)
from dmn.data.images import Channels, ImageDataset, ImageModule
from dmn.errors import DataError, OptionError
from dmn.io.options import require
from dmn.io.pictures import Picture

NAMES = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


class Folder(ImageModule):
    """Images in class folders: root/class/..., or root/train/class/... and its like.

    A part that has no folder of its own (validation, val or valid; test) is a share of the
    training images, the same of every class. Copies of the same file, under whatever names, then
    stay in one part, and count as one; parts with folders of their own are taken as they are.
    Hidden files and folders, whose names begin with a dot, are left out; so are the folders
    `__MACOSX` and `@eaDir`.

    Args:
        root: The folder.
        size: Side of the square that images are cut to, in pixels.
        mean: How channels are normalised; None, for both, leaves images in [0, 1].
        std: Likewise.
        masks: Folder with a .png for each validation and test image, at the path that the image
            has in `root`; what is not 0 is evidence. None: there are no masks. Images are turned
            upright where their EXIF tag says so, and masks are of what is then seen.
        validation_share: Share for validation, where it has no folder.
        test_share: Share for the test, likewise.
        batch_size: Images a batch.
        augment: Crop and mirror training images at random.
        seed: Fixes divisions, order and augmentation.
        num_workers: Processes that load data.

    Raises:
        OptionError: if only one of mean and std is given.
        DataError: if there is no such folder, or no class in it.
        DataError: if a part or a class has no image, or a part a class that is not in training.
        DataError: names the mask that is missing.
    """

    def __init__(
        self,
        root: str,
        size: int = 224,
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
        self.shares = {"validation": validation_share, "test": test_share}

    def setup(self, stage: str) -> None:
        """List the images and divide them."""
        parts = self._parts()
        whole = parts.pop("train", self.root)
        self.classes = tuple(folders(whole))
        if not self.classes or (parts and whole == self.root):
            raise DataError(
                f"{self.root.resolve()} has no classes to train with; put images there as "
                "class/name.jpg, or as train/class/name.jpg, validation/class/name.jpg and "
                "test/class/name.jpg"
            )
        shares = [0.0 if part in parts else share for part, share in self.shares.items()]
        listed = list_images(whole, self.classes, True)
        same = copies([path for path, _ in listed]) if any(shares) else {}
        *drawn, train = divide(listed, shares, self.seed, same)
        samples = dict(zip(self.shares, drawn, strict=True))
        samples |= {
            part: list_images(folder, self.classes, False) for part, folder in parts.items()
        }
        self.train = self._cut("train", train)
        self.validation, self.test = (
            self._cut(part, interleave_classes(samples[part]), self.masks) for part in self.shares
        )

    def _parts(self) -> dict[str, Path]:
        """Return the folders that hold class folders; one with images only is itself a class."""
        return {
            part: self.root / name
            for part, known in NAMES.items()
            for name in reversed(known)
            if folders(self.root / name)
        }

    def _cut(self, part: str, samples: list[Sample], masks: str | None = None) -> ImageDataset:
        if not samples:
            raise DataError(
                f"{self.root.resolve()}: no images for {part}; add some, or change "
                "validation_share and test_share"
            )
        if masks is None:
            return self._photographs(samples, self.size)
        place = partial(_mask_path, self.root, Path(masks))
        require_masks(samples, place)
        return self._photographs(samples, self.size, masks=partial(_mask, place))


def _mask_path(root: Path, masks: Path, source: str) -> Path:
    return masks / Path(source).relative_to(root).with_suffix(".png")


def _mask(place: Callable[[str], Path], source: str) -> Picture:
    return read_mask(place(source), _not_black, upright=True)


def _not_black(picture: Picture) -> Any:
    channels = np.atleast_3d(np.asarray(picture))
    return channels[..., : len(picture.getbands()) - picture.mode.endswith("A")].any(-1)
