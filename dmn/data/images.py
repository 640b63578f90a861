"""Photographs that are read when needed, and the base of their data modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from dmn.data.batch import ImageBatch, keep_batch
from dmn.data.files import Sample
from dmn.data.sampling import EpochLoader, EpochSampler, require_loading
from dmn.errors import DataError, OptionError
from dmn.io.options import ABOVE_ZERO, require
from dmn.io.pictures import Picture, read_picture

Channels = tuple[float, ...]
RESIZED = 256 / 224  # shorter side over crop, as torchvision's classifiers are evaluated


class ImageDataset(Dataset[ImageBatch]):
    """Images that are read when needed, one batch at a time.

    Args:
        samples: Source and class index of each image.
        view: Crops pictures to one size; called with `interpolation` nearest for masks.
        augment: Used instead of `view` for images indexed by (epoch, index); it may use torch's
            global generator, which is seeded by (seed, epoch, index) meanwhile.
        read: Opens a source as a picture; by default the source is a path, the picture RGB.
        masks: Opens the mask of a source, 0 or 255; not used for images indexed by (epoch, index).
        mean: Subtracted from each channel; None keeps images in [0, 1].
        std: Each channel is then divided by it.
        seed: For the augmentation; not negative.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        view: Callable[..., Picture],
        augment: Callable[[Picture], Picture] | None = None,
        read: Callable[[Any], Picture] = read_picture,
        masks: Callable[[Any], Picture] | None = None,
        mean: Channels | None = None,
        std: Channels | None = None,
        seed: int = 0,
    ) -> None:
        self.samples, self.view, self.augment = samples, view, augment
        self.read, self.masks = read, masks
        self.mean, self.std, self.seed = mean, std, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, keys: list[int] | list[tuple[int, int]]) -> ImageBatch:
        """Return a batch by indices, with masks if there are any, or by pairs (epoch, index).

        Raises:
            UnreadableImageError: if an image cannot be read; names the file.
            DataError: if a mask and its image differ in size.
        """
        items = [self._item(key) for key in keys]
        fields = [torch.stack(values) for values in zip(*items, strict=True)]
        return ImageBatch(*fields)

    def _item(self, key: int | tuple[int, int]) -> tuple[Tensor, ...]:
        augmented = isinstance(key, tuple)
        epoch, index = key if isinstance(key, tuple) else (0, key)
        source, label = self.samples[index]
        picture = self.read(source)
        image = TF.to_tensor(
            self._augmented(picture, epoch, index) if augmented else self.view(picture)
        )
        if self.mean is not None:
            image = TF.normalize(image, self.mean, self.std)
        mask = () if augmented or self.masks is None else (self._mask(source, picture.size),)
        return image, torch.tensor(label), *mask

    def _augmented(self, picture: Picture, epoch: int, index: int) -> Picture:
        if self.augment is None:
            return self.view(picture)
        draws = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                int(draws[0])
            )  # torch.manual_seed would also seed GPUs
            return self.augment(picture)

    def _mask(self, source: Any, size: tuple[int, int]) -> Tensor:
        assert self.masks is not None
        mask = self.masks(source)
        if mask.size != size:
            width, height = mask.size
            raise DataError(
                f"{source} is {size[0]} x {size[1]} pixels, its mask {width} x {height}; "
                "they must be the same"
            )
        view: Tensor = TF.to_tensor(self.view(mask, interpolation=InterpolationMode.NEAREST))
        return view


class ImageModule(pl.LightningDataModule):
    """Base class of data modules for images on disk; `setup` of a subclass lists the images.

    Args:
        mean: Means by which channels are normalised; None for both keeps images in [0, 1].
        std: Standard deviations by which channels are normalised.
        batch_size: Images per batch.
        augment: Whether training images are augmented.
        seed: For splits, order and augmentation.
        num_workers: Number of processes that load data.

    Attributes:
        classes: Name of each label.
        channels: Channels of an image; None if `inspect` has not found it out yet.
        train: Training images, shuffled and augmented, without masks.
        validation: Validation images, classes interleaved.
        test: Test images, classes interleaved.

    Raises:
        OptionError: if only one of mean and std is given.

    Examples:
        >>> from dmn.data import ImageModule
        >>> class TwoPictures(ImageModule):
        ...     def setup(self, stage):
        ...         self.classes = ("cat", "dog")
        ...         self.train = self._photographs([("cat.png", 0), ("dog.png", 1)], size=64)
        >>> data = TwoPictures(None, None, batch_size=2, augment=False, seed=0, num_workers=0)
        >>> data.setup("fit")
        >>> len(data.train)  # pictures are read when a batch needs them
        2
    """

    classes: tuple[str, ...]
    channels: int | None = 3
    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset

    def __init__(
        self,
        mean: Channels | None,
        std: Channels | None,
        batch_size: int,
        augment: bool,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise OptionError(f"mean is {mean}, std is {std}; give both, or null for both")
        for value in std or ():
            require("data.std", value, ABOVE_ZERO)
        require_loading(batch_size, seed, num_workers)
        self.mean, self.std, self.augment = mean, std, augment
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers

    def inspect(self) -> None:
        """Find classes, channels and other options that are None, without listing all images.

        Data that must be downloaded first is not inspected.
        """

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches; an incomplete last one is dropped unless it is the only one."""
        world = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        sampler = EpochSampler(self.train, world, rank, seed=self.seed)
        return self._loader(self.train, sampler=sampler, drop_last=len(sampler) >= self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation images, always in the same order."""
        return self._loader(self.validation)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test images, always in the same order."""
        return self._loader(self.test)

    def _loader(self, images: ImageDataset, **options: Any) -> DataLoader[Any]:
        return EpochLoader(
            images,
            self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=keep_batch,
            **options,
        )

    def _images(
        self,
        samples: Sequence[Sample],
        view: Callable[..., Picture],
        augmentations: Sequence[Callable[[Picture], Picture]],
        **options: Any,
    ) -> ImageDataset:
        """Return images that are normalised and, if `augment` is set, augmented."""
        augment = transforms.Compose(augmentations) if self.augment else None
        options |= {"mean": self.mean, "std": self.std, "seed": self.seed}
        return ImageDataset(samples, view, augment, **options)

    def _photographs(self, samples: Sequence[Sample], size: int, **options: Any) -> ImageDataset:
        """Return images of files, cropped to a size: the centre or, if augmented, a random part."""
        augmentations = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
        return self._images(samples, partial(centre, size), augmentations, **options)


def centre(
    size: int, picture: Picture, interpolation: InterpolationMode = InterpolationMode.BILINEAR
) -> Picture:
    """Crop the central square of `size` pixels, after resizing the shorter side to 8/7 of it."""
    resized = TF.resize(picture, round(size * RESIZED), interpolation)
    cropped: Picture = TF.center_crop(resized, size)
    return cropped
