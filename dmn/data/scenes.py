"""Scenes: digits in bright colours on dimmed photographs, among meaningless strokes.

Only the digit shows the class, and its pixels are known exactly, so it is known what an explanation
should show. All images come with the packages and are determined by a seed.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from dmn.data.batch import ImageBatch
from dmn.data.mnist import MNIST, STROKE, Digits, Fold
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
STROKE_LENGTH = (0.12, 0.3)  # of a distractor, as a share of the image's side
THICKNESS = (0.015, 0.035)  # half of a stroke's, as a share of the image's side
BRIGHTEST = 0.5  # of a photograph, so that strokes stand out from it
DARKEST = 0.4  # of a stroke's channels
BEND = 0.5  # largest offset of a stroke's middle, as a share of its length
POINTS = 24  # of a curve
SHARED_DRAWS = 11  # of photograph, crop, digit and its colour
DRAWS_PER_STROKE = 9  # place, angle, length, bend, thickness, colour
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
        x = BRIGHTEST * self._backgrounds(shared[:, :4])
        if self.varied:
            x = _vary(x, variation)
        for stroke in strokes.view(len(pairs), self.distractors, DRAWS_PER_STROKE).unbind(dim=1):
            x = _paint(x, _draw_curves(stroke, self.size), stroke[:, 6:])
        ink = _place_digits(self.digits.images[indices], shared[:, 4:8], self.size)
        x = _paint(x, ink, shared[:, 8:])
        return ImageBatch(x, self.digits.labels[indices], (ink > STROKE).float())

    def _backgrounds(self, draws: Tensor) -> Tensor:
        """Crop photographs to (B, 3, S, S) by draws (B, 4) of photograph, size and position."""
        photographs = _photographs(self.part)
        crops = []
        for choice, scale, down, right in draws.tolist():
            photograph = photographs[int(choice * len(photographs))]
            height, width = photograph.shape[-2:]
            side = round(_interpolate(WINDOW, scale) * min(height, width))
            top, left = int(down * (height - side)), int(right * (width - side))
            window = photograph[None, :, top : top + side, left : left + side]
            size = (self.size, self.size)
            crops.append(F.interpolate(window, size, mode="bilinear", antialias=True))
        return torch.cat(crops).clamp(0, 1)

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


def _vary(photographs: Tensor, draws: Tensor) -> Tensor:
    """Flip, invert, recolour and dim photographs (B, 3, S, S) in [0, BRIGHTEST]."""
    down, across, negative, _, _ = (draws < 0.5).view(-1, VARIED_DRAWS, 1, 1, 1).unbind(dim=1)
    x = torch.where(down, photographs.flip(2), photographs)
    x = torch.where(across, x.flip(3), x)
    x = torch.where(negative, BRIGHTEST - x, x)
    orders = torch.tensor(list(permutations(range(3))))
    order = orders[(draws[:, 3] * len(orders)).long()]
    x = x.gather(1, order[:, :, None, None].expand_as(x))
    return x * _interpolate((DIMMEST, 1.0), draws[:, 4])[:, None, None, None]


def _place_digits(digits: Tensor, draws: Tensor, size: int) -> Tensor:
    """Scale, rotate and shift digits (B, 1, 28, 28) into images of ink, (B, 1, S, S)."""
    side = _interpolate(DIGIT, draws[:, 0])
    angle = math.radians(15) * (2 * draws[:, 1] - 1)
    room = (1 - side)[:, None] * (2 * draws[:, 2:4] - 1)  # of the centre, in [-1, 1]
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    inverse = rotation / side[:, None, None]
    affine = torch.cat([inverse, -inverse @ room[:, :, None]], dim=2)
    grid = F.affine_grid(affine, [len(digits), 1, size, size], align_corners=False)
    return F.grid_sample(digits, grid, align_corners=False)


def _draw_curves(draws: Tensor, size: int) -> Tensor:
    """Draw bent strokes as ink (B, 1, S, S): quadratic Bezier curves with a thickness."""
    centre = draws[:, 0:2]
    angle = 2 * math.pi * draws[:, 2]
    along = torch.stack([angle.cos(), angle.sin()], 1) * _interpolate(STROKE_LENGTH, draws[:, 3:4])
    across = torch.stack([-along[:, 1], along[:, 0]], 1) * BEND * (2 * draws[:, 4:5] - 1)
    start, end, control = centre - along / 2, centre + along / 2, centre + 2 * across
    axis = (torch.arange(size) + 0.5) / size
    nearest = torch.full((len(draws), size, size), math.inf)
    for t in torch.linspace(0, 1, POINTS).tolist():
        point = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        right, down = (axis - point[:, :, None]).square().unbind(dim=1)
        nearest = torch.minimum(nearest, right[:, None, :] + down[:, :, None])
    thickness = _interpolate(THICKNESS, draws[:, 5])[:, None, None]
    return ((thickness - nearest.sqrt()) * size + 0.5).clamp(0, 1).unsqueeze(1)


def _paint(x: Tensor, ink: Tensor, draws: Tensor) -> Tensor:
    """Draw ink (B, 1, S, S) on images (B, 3, S, S), in bright colours by draws (B, 3)."""
    colour = _interpolate((DARKEST, 1.0), draws)[:, :, None, None]
    return x * (1 - ink) + colour * ink


@overload
def _interpolate(limits: tuple[float, float], share: Tensor) -> Tensor: ...
@overload
def _interpolate(limits: tuple[float, float], share: float) -> float: ...
def _interpolate(limits: tuple[float, float], share: Tensor | float) -> Tensor | float:
    low, high = limits
    return low + (high - low) * share
