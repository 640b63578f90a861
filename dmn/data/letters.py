"""Printed letters, A to J: a small data set other than digits, to fine-tune on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.data.mnist import MNIST, Digits
from dmn.data.sampling import RandomAffine
from dmn.io.options import require

LETTERS = "ABCDEFGHIJ"
STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
# Font families are disjoint, so that the test is of letters, not of typefaces.
FONTS = {
    "train": (
        *(f"DejaVuSans{style}" for style in STYLES),
        *(f"DejaVuSansMono{style}" for style in STYLES),
        *(f"DejaVuSerif{style.replace('Oblique', 'Italic')}" for style in STYLES),
    ),
    "validation": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    "test": ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10", "cmmi10"),  # Computer Modern
}
PER_CLASS = {"validation": 50, "test": 100}
SIDE, BOX = 28, 20  # side of an image, and of the box that a glyph fills, as in MNIST
POINT_SIZE = 100  # size in which a glyph is drawn before it is scaled to its box
WEAR = 0.5  # largest share of a pixel's ink that wear removes


class Letters(MNIST):
    """Letters A to J in the typefaces inside matplotlib's wheel; masks are their strokes.

    Images are 28 x 28 pixels, white on black and with MNIST's scale, so training can start from a
    network for digits. Each image is a glyph that is rotated, scaled, shifted, blurred and worn.
    The typefaces are DejaVu for training, STIX for validation (500 images), and Computer Modern for
    the test (1,000 images).

    Args:
        per_class: Training images of each letter.
        batch_size: Images per training step.
        augment: Rotate, scale and shift the training images slightly, differently in each epoch.
        seed: For the images, their order and the augmentation.
        num_workers: Number of processes that load data; 0 is fastest for images in memory.

    Examples:
        >>> from dmn.data import Letters
        >>> data = Letters(per_class=4)
        >>> data.setup("fit")
        >>> len(data.train), data.classes[:3]
        (40, ('A', 'B', 'C'))
    """

    def __init__(
        self,
        per_class: int = 30,
        batch_size: int = 32,
        augment: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, augment=augment, seed=seed, num_workers=num_workers)
        require("data.per_class", per_class, 1)
        self.per_class = per_class
        self.classes = tuple(LETTERS)

    def setup(self, stage: str) -> None:
        """Draw the letters."""
        for index, (part, count) in enumerate({"train": self.per_class, **PER_CLASS}.items(), 1):
            images, labels = _draw(FONTS[part], count, len(FONTS) * self.seed + index)
            augmented = self.augment and part == "train"
            augment = RandomAffine(len(labels), self.seed) if augmented else None
            setattr(self, part, Digits(images, labels, augment))


def _draw(fonts: tuple[str, ...], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `count` images per letter, with fonts and letters interleaved.

    Returns:
        Images (N, 1, 28, 28) in [0, 1] and labels (N,).
    """
    glyphs = torch.stack([_glyphs(font) for font in fonts])
    labels = torch.arange(len(LETTERS)).repeat(count)
    font = torch.arange(count).repeat_interleave(len(LETTERS)) % len(fonts)
    images = glyphs[font, labels]
    affine = RandomAffine(len(labels), seed, degrees=20.0, scale=0.2, shift=0.1)
    images = affine(images, 0, torch.arange(len(labels)))
    generator = torch.Generator().manual_seed(seed)
    blur = torch.rand(len(labels), 1, 1, 1, generator=generator)
    images = torch.lerp(images, F.avg_pool2d(images, 3, 1, 1), blur)
    # Wear only removes ink, so that the mask remains the letter's.
    return images * (1 - WEAR * torch.rand(images.shape, generator=generator)), labels


@cache
def _glyphs(font: str) -> Tensor:
    """Draw a font's letters, (10, 1, 28, 28), each filling a box of 20 x 20 pixels."""
    import matplotlib
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    typeface = ImageFont.truetype(str(path), POINT_SIZE)
    glyphs = np.zeros((len(LETTERS), 1, SIDE, SIDE), np.float32)
    for glyph, letter in zip(glyphs, LETTERS, strict=True):
        sheet = Image.new("L", (2 * POINT_SIZE, 2 * POINT_SIZE))
        ImageDraw.Draw(sheet).text(
            (POINT_SIZE // 2, POINT_SIZE // 2), letter, fill=255, font=typeface
        )
        ink = sheet.crop(sheet.getbbox())
        width, height = (max(1, round(side * BOX / max(ink.size))) for side in ink.size)
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        small = np.asarray(ink.resize((width, height), Image.Resampling.LANCZOS))
        glyph[0, top : top + height, left : left + width] = small / 255
    return torch.from_numpy(glyphs)
