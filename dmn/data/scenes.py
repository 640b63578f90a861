"""Scenes: digits in bright colours on dimmed photographs, among meaningless strokes.

Only the digit shows the class, and its pixels are known exactly, so it is known what an explanation
should show. All images come with the packages and are determined by a seed.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from dmn.data.batch import ImageBatch
from dmn.data.mnist import MNIST, STROKE, Digits, Fold
from dmn.data.strokes import DRAWS_PER_STROKE, draw_curves, interpolate, paint
from dmn.io.options import require

DataSplit = Literal["train", "validation", "test"]

# Disjoint, so that memorised backgrounds do not help. None contains text.
PHOTOGRAPHS: dict[DataSplit, tuple[str, ...]] = {
    "train": (
        "astronaut.png",
        "brick.png",
        "china.jpg",
        "coffee.png",
        "grass.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
    ),
    "validation": ("chelsea.png", "gravel.png", "moon.png", "rocket.jpg"),
    "test": ("camera.png", "cell.png", "flower.jpg", "retina.jpg"),
}
DIGIT = (0.45, 0.65)  # side of the digit's box, as a share of the image's
WINDOW = (0.3, 0.8)  # side of the crop, as a share of the photograph's shorter side
BRIGHTEST = 0.5  # of a photograph, so that strokes stand out from it
SHARED_DRAWS = 11  # of photograph, crop, digit and its colour
VARIED_DRAWS = 5  # two flips, negative, order of colours, brightness
DIMMEST = 0.3  # of a varied photograph, as a share of its brightness


class SceneSet(Dataset[ImageBatch]):
    """Scenes of digits, drawn when needed.

    Args:
        digits: The digits, one per scene.
        part: The part whose photographs are the background.
        size: Side of a scene in pixels.
        distractors: Number of strokes beside each digit.
        seed: For the random numbers.
        varied: Flip, invert, recolour and dim the photographs at random.
    """

    def __init__(
        self,
        digits: Digits,
        part: DataSplit,
        size: int,
        distractors: int,
        seed: int,
        varied: bool = False,
    ) -> None:
        self.digits, self.part, self.size = digits, part, size
        self.distractors, self.seed, self.varied = distractors, seed, varied
        self._unvaried = SHARED_DRAWS + distractors * DRAWS_PER_STROKE  # draws of a scene
        self._epoch, self._draws = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitems__(self, keys: list[int] | list[tuple[int, int]]) -> ImageBatch:
        """Draw a batch by indices, or by pairs (epoch, index) with other scenes in each epoch."""
        pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
        indices = torch.tensor([index for _, index in pairs])
        draws = self._epoch_draws(pairs[0][0])[indices]
        shared, strokes, variation = draws.tensor_split([SHARED_DRAWS, self._unvaried], dim=1)
        x = draw_backgrounds(self.part, shared[:, :4], self.size)
        if self.varied:
            x = _vary(x, variation)
        for stroke in strokes.view(len(pairs), self.distractors, DRAWS_PER_STROKE).unbind(dim=1):
            x = paint(x, draw_curves(stroke, self.size), stroke[:, 6:])
        ink = _place_digits(self.digits.images[indices], shared[:, 4:8], self.size)
        x = paint(x, ink, shared[:, 8:])
        return ImageBatch(x, self.digits.labels[indices], (ink > STROKE).float())

    def _epoch_draws(self, epoch: int) -> Tensor:
        """Return the random numbers of all scenes for an epoch, uniform in [0, 1)."""
        if epoch != self._epoch:
            key = (1_000_003 * self.seed + epoch) * len(PHOTOGRAPHS) + list(PHOTOGRAPHS).index(
                self.part
            )
            generator = torch.Generator().manual_seed(key)
            count = self._unvaried + VARIED_DRAWS * self.varied
            self._draws = torch.rand(len(self), count, generator=generator)
            self._epoch = epoch
        return self._draws


class Scenes(MNIST):
    """Digits in bright colours on photographs; masks are the pixels of the digits.

    Only the digit shows the class: the strokes beside it are no evidence. The digits of each part
    are those of `MNIST`, and no photograph is in two parts.

    Args:
        size: Side of a scene in pixels, e.g. 64 or 224.
        distractors: Number of strokes beside each digit, which are no evidence of its class.
        fold: Which fold of the digits is the test set, 0 to 4.
        full: Take the digits from torchvision's MNIST (55,000 / 5,000 / 10,000), downloaded once.
        root: Folder of the full data set.
        batch_size: Scenes per training step.
        seed: For the folds, the order and the scenes.
        num_workers: Number of processes that draw scenes.
        varied: Flip, invert, recolour and dim the training photographs, of which there are only
            nine.

    Raises:
        OptionError: if there is no such fold.

    Examples:
        >>> from dmn.data import Scenes
        >>> data = Scenes(size=64, distractors=3)
        >>> data.setup("test")
        >>> scenes = data.test.__getitems__([0, 1, 2, 3])
        >>> scenes.image.shape, scenes.mask.shape
        (torch.Size([4, 3, 64, 64]), torch.Size([4, 1, 64, 64]))
    """

    def __init__(
        self,
        size: int = 64,
        distractors: int = 3,
        fold: Fold = 0,
        full: bool = False,
        root: str = "data",
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        varied: bool = False,
    ) -> None:
        super().__init__(fold, full, root, batch_size, False, seed, num_workers)
        require("data.size", size, 1)
        require("data.distractors", distractors, 0)
        self.size, self.distractors, self.varied = size, distractors, varied

    def setup(self, stage: str) -> None:
        """Read digits and photographs."""
        super().setup(stage)
        parts: tuple[DataSplit, ...] = ("train", "validation", "test")
        for part in parts:
            digits = getattr(self, part)
            varied = self.varied and part == "train"
            scenes = SceneSet(digits, part, self.size, self.distractors, self.seed, varied)
            setattr(self, part, scenes)


@cache
def _photographs(part: DataSplit) -> list[Tensor]:
    """Read a part's photographs, (3, H, W) in [0, 1], from the packages that contain them."""
    import numpy as np
    import skimage.data
    import sklearn.datasets
    from PIL import Image

    folders = [
        Path(skimage.data.__file__).parent,
        Path(sklearn.datasets.__file__).parent / "images",
    ]
    photographs = []
    for name in PHOTOGRAPHS[part]:
        path = next(path for folder in folders if (path := folder / name).is_file())
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
        photographs.append(torch.from_numpy(pixels).permute(2, 0, 1).float().div(255))
    return photographs


def draw_backgrounds(part: DataSplit, draws: Tensor, size: int) -> Tensor:
    """Crop and dim photographs: (B, 3, S, S) in [0, BRIGHTEST].

    Args:
        part: The part whose photographs they are.
        draws: (B, 4), each in [0, 1): photograph, size and position.
        size: Side in pixels.
    """
    photographs = _photographs(part)
    crops = []
    for choice, scale, down, right in draws.tolist():
        photograph = photographs[int(choice * len(photographs))]
        height, width = photograph.shape[-2:]
        side = round(interpolate(WINDOW, scale) * min(height, width))
        top, left = int(down * (height - side)), int(right * (width - side))
        window = photograph[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(window, (size, size), mode="bilinear", antialias=True))
    return BRIGHTEST * torch.cat(crops).clamp(0, 1)


def _vary(photographs: Tensor, draws: Tensor) -> Tensor:
    """Flip, invert, recolour and dim photographs (B, 3, S, S) in [0, BRIGHTEST]."""
    down, across, negative, _, _ = (draws < 0.5).view(-1, VARIED_DRAWS, 1, 1, 1).unbind(dim=1)
    x = torch.where(down, photographs.flip(2), photographs)
    x = torch.where(across, x.flip(3), x)
    x = torch.where(negative, BRIGHTEST - x, x)
    orders = torch.tensor(list(permutations(range(3))))
    order = orders[(draws[:, 3] * len(orders)).long()]
    x = x.gather(1, order[:, :, None, None].expand_as(x))
    return x * interpolate((DIMMEST, 1.0), draws[:, 4])[:, None, None, None]


def _place_digits(digits: Tensor, draws: Tensor, size: int) -> Tensor:
    """Scale, rotate and shift digits (B, 1, 28, 28) into images of ink, (B, 1, S, S)."""
    side = interpolate(DIGIT, draws[:, 0])
    angle = math.radians(15) * (2 * draws[:, 1] - 1)
    room = (1 - side)[:, None] * (2 * draws[:, 2:4] - 1)  # of the centre, in [-1, 1]
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    inverse = rotation / side[:, None, None]
    affine = torch.cat([inverse, -inverse @ room[:, :, None]], dim=2)
    grid = F.affine_grid(affine, [len(digits), 1, size, size], align_corners=False)
    return F.grid_sample(digits, grid, align_corners=False)
