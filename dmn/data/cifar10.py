"""CIFAR-10: 60,000 photographs of ten classes, 32 x 32 pixels, without masks."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets, transforms

from dmn.data.files import Sample, divide, interleave_classes
from dmn.data.images import Channels, ImageModule
from dmn.errors import DataError
from dmn.io.pictures import Picture
from dmn.io.text import one_line

VALIDATION = 0.1  # of the 50,000 training images


class CIFAR10(ImageModule):
    """CIFAR-10 for training (45,000), validation (5,000) and test (10,000), with balanced classes.

    Args:
        root: Folder of the data, which is downloaded once.
        mean: Means by which channels are normalised; None for both keeps images in [0, 1].
        std: Standard deviations by which channels are normalised.
        batch_size: Images per batch.
        augment: Shift and mirror training images.
        seed: Fixes validation images, order and augmentation.
        num_workers: Number of processes that load data.

    Raises:
        OptionError: if only one of mean and std is given.
        DataError: if the data cannot be downloaded; says which file to put where.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Examples:
        >>> from dmn.data import CIFAR10
        >>> data = CIFAR10("data", mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26), batch_size=64)
        >>> data.channels, data.batch_size  # `prepare_data` downloads, `setup` reads the images
        (3, 64)
    """

    def __init__(
        self,
        root: str = "data",
        mean: Channels | None = None,
        std: Channels | None = None,
        batch_size: int = 128,
        augment: bool = True,
        seed: int = 0,
        num_workers: int = 2,
    ) -> None:
        super().__init__(mean, std, batch_size, augment, seed, num_workers)
        self.root = root

    def prepare_data(self) -> None:
        """Download what is missing."""
        _torchvision_cifar10(self.root, train=True, download=True)

    def setup(self, stage: str) -> None:
        """Read the images and divide them."""
        training, testing = (
            _torchvision_cifar10(self.root, train, False) for train in (True, False)
        )
        self.classes = tuple(training.classes)
        validation, train = divide(_samples(training), [VALIDATION], self.seed)
        augmentations = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.train, self.validation, self.test = (
            self._images(samples, _unchanged, augmentations, read=Image.fromarray)
            for samples in (
                train,
                interleave_classes(validation),
                interleave_classes(_samples(testing)),
            )
        )


def _unchanged(picture: Picture) -> Picture:
    return picture


def _samples(images: Any) -> list[Sample]:
    return list(zip(images.data, images.targets, strict=True))


def _torchvision_cifar10(root: str, train: bool, download: bool) -> Any:
    try:
        return datasets.CIFAR10(root, train=train, download=download)
    except (RuntimeError, urllib.error.URLError, OSError) as error:
        reason = one_line(error)
        raise DataError(
            f"CIFAR-10 is not in {Path(root).resolve()} and could not be downloaded ({reason}). "
            f"Put {datasets.CIFAR10.filename} there and unpack it, which gives the folder "
            f"{datasets.CIFAR10.base_folder}; or go online once."
        ) from error
