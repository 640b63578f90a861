"""ImageNet-S: photographs of ImageNet with masks of the object, in the published folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from dmn.data.files import (
    Sample,
    folders,
    interleave_classes,
    list_images,
    read_mask,
    require_masks,
)
from dmn.data.images import Channels, ImageDataset, ImageModule
from dmn.errors import DataError, OptionError
from dmn.io.options import require
from dmn.io.pictures import Picture, read_picture
from dmn.io.reading import regular

Subset = Literal[50, 300, 919]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in torchvision
SOURCE = "github.com/LUSSeg/ImageNet-S"


class ImageNetS(ImageModule):
    """ImageNet-S-50, -300 or -919: photographs of ImageNet with masks for validation and test.

    A mask marks the pixels of the image's own class. Pixels of other classes are 0, and so are
    pixels that the annotators left undecided (id 1000). So a mask may be empty; metrics drop such
    images. The masks of the test images are not published. EXIF tags are ignored, because networks
    are trained and tested on ImageNet's pixels as they are stored.

    Args:
        root: Folder that contains ImageNetS50, ImageNetS300 or ImageNetS919, prepared by
            github.com/LUSSeg/ImageNet-S.
        subset: Number of classes: 50, 300 or 919.
        size: Side in pixels of the central square that images are cropped to, after the shorter
            side is resized to 8/7 of it.
        class_index: File with the class of each output of a network: a JSON file
            {"0": ["n01440764", "tench"], ...} (imagenet_class_index.json), or a text file with one
            class per line, in the order of the outputs, "n01440764 tench, Tinca tinca"
            (LOC_synset_mapping.txt). None: labels 0 to `subset` - 1, by sorted WordNet id.
        test_on: Images for the test; "test" needs test-segmentation. With "validation", one
            validation image per class is for validation, and the others are for the test. None:
            "test" if its masks exist, else "validation".
        mean: Means by which channels are normalised; None for both keeps images in [0, 1].
        std: Standard deviations by which channels are normalised.
        batch_size: Images per batch.
        augment: Crop and flip training images at random.
        seed: For order and augmentation.
        num_workers: Number of processes that load data.

    Raises:
        OptionError: if there is no such subset, or only one of mean and std is given.
        DataError: if a folder, a mask or a class is missing, a class has no image, or the class
            index lacks a class; names it.

    Source: Gao et al., Large-scale Unsupervised Semantic Segmentation, TPAMI 2022. In
        ImageNet-S-919 five classes were merged into others; their images have the labels of these.

    Examples:
        >>> from dmn.data import ImageNetS
        >>> data = ImageNetS("data", subset=50, test_on="validation")
        >>> print(data.folder.as_posix())  # what `setup` reads
        data/ImageNetS50
    """

    def __init__(
        self,
        root: str,
        subset: Subset = 50,
        size: int = 224,
        class_index: str | None = None,
        test_on: Literal["test", "validation"] | None = None,
        mean: Channels | None = MEAN,
        std: Channels | None = STD,
        batch_size: int = 32,
        augment: bool = True,
        seed: int = 0,
        num_workers: int = 4,
    ) -> None:
        super().__init__(mean, std, batch_size, augment, seed, num_workers)
        require("data.size", size, 1)
        if subset not in get_args(Subset):
            raise OptionError(f"data.subset is {subset}; choose 50, 300 or 919")
        self.folder, self.subset, self.size = Path(root, f"ImageNetS{subset}"), subset, size
        self.class_index, self.test_on = class_index, test_on

    def setup(self, stage: str) -> None:
        """List the images; training images for stage "fit" only."""
        wnids = folders(self._subfolder("validation"))
        if len(wnids) != self.subset:  # masks contain numbers of classes: none may be missing
            raise DataError(
                f"{self._subfolder('validation')} has {len(wnids)} classes instead of "
                f"{self.subset}; prepare it with the scripts of {SOURCE}"
            )
        names = (
            read_class_index(self.class_index)
            if self.class_index
            else {wnid: wnid for wnid in wnids}
        )
        if missing := [wnid for wnid in wnids if wnid not in names]:
            raise DataError(
                f"{self.class_index} lacks {', '.join(missing[:5])}; give the file of all 1,000 "
                "classes of ImageNet-1k"
            )
        self.classes = tuple(names.values())
        self._outputs = {wnid: list(names).index(wnid) for wnid in wnids}
        validation = interleave_classes(self._list("validation"))
        if self._scores_test():
            self.test = self._with_masks("test", interleave_classes(self._list("test")))
        else:
            self.test = self._with_masks("validation", validation[self.subset :])
            validation = validation[: self.subset]
        self.validation = self._with_masks("validation", validation)
        if stage == "fit":
            self.train = self._photographs(self._list("train"), self.size, read=_read)

    def _scores_test(self) -> bool:
        present = os.path.isdir(self.folder / "test-segmentation")
        return present if self.test_on is None else self.test_on == "test"

    def _subfolder(self, name: str) -> Path:
        path = self.folder / name
        if not os.path.isdir(path):
            withheld = "; its masks are not published: set data.test_on to validation"
            raise DataError(
                f"{path.resolve()} is not there; data.root is to hold {self.folder.name}, prepared "
                f"with the scripts of {SOURCE}" + withheld * (name == "test-segmentation")
            )
        return path

    def _list(self, part: str) -> list[Sample]:
        outputs = list(self._outputs.values())
        images = list_images(self._subfolder(part), list(self._outputs), True)
        return [(path, outputs[index]) for path, index in images]

    def _with_masks(self, part: str, samples: list[Sample]) -> ImageDataset:
        mask_path = partial(_mask_path, self._subfolder(f"{part}-segmentation"))
        require_masks(samples, mask_path)
        ids = {wnid: mask_id for mask_id, wnid in enumerate(self._outputs, start=1)}  # 0: no class
        masks = partial(_read_mask, mask_path, ids)
        return self._photographs(samples, self.size, read=_read, masks=masks)


def read_class_index(path: str) -> dict[str, str]:
    """Read the classes of a network, WordNet id and name, in the order of its outputs.

    Args:
        path: JSON {"0": [id, name], ...}, or a text file with one "id name, other name" per line.

    Raises:
        DataError: if it is neither; names the file, and the wrong entry.
    """
    try:
        text = regular(path).read_text(encoding="utf-8")
        rows = _json_rows(text) if path.endswith(".json") else _text_rows(text)
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise DataError(
            f"{path}: cannot be read as a class index ({type(error).__name__}: {error}); give "
            "imagenet_class_index.json, or a text file with one class a line"
        ) from error
    if wrong := [wnid for wnid, _ in rows if not re.fullmatch(r"n\d{8}", wnid)]:
        raise DataError(f"{path}: {wrong[0]!r} is no WordNet id, such as n01440764")
    return dict(rows)


def _json_rows(text: str) -> list[tuple[str, str]]:
    classes = json.loads(text)
    return [
        (str(classes[str(output)][0]), str(classes[str(output)][1]))
        for output in range(len(classes))
    ]


def _text_rows(text: str) -> list[tuple[str, str]]:
    rows = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(wnid, names[0].split(",")[0] if names else wnid) for wnid, *names in rows]


_read = partial(read_picture, upright=False)


def _mask_path(folder: Path, source: str) -> Path:
    image = Path(source)
    return folder / image.parent.name / f"{image.stem}.png"


def _read_mask(mask_path: Callable[[str], Path], ids: dict[str, int], source: str) -> Picture:
    wnid = Path(source).parent.name
    return read_mask(mask_path(source), partial(_has_id, ids[wnid]), upright=False)


def _has_id(mask_id: int, picture: Picture) -> Any:
    red, green, _ = np.asarray(picture.convert("RGB"), dtype=np.int32).transpose(2, 0, 1)
    return red + 256 * green == mask_id
