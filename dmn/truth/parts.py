"""Digits of seven strokes: which of its strokes does the network use, by drawing it without each?

The strokes are parts as in FunnyBirds, and what is below a part is known: the image without it is
drawn, not guessed. So the fall of the logit without a part is its true importance.

Source: Hesse, Schaub-Meyer & Roth 2023, "FunnyBirds: A synthetic vision dataset for a part-based
analysis of explainable AI methods", the single deletion protocol.
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache
from itertools import combinations

import torch
from torch import Tensor, nn

from dmn.data import ImageBatch, concatenate
from dmn.data.scenes import DataSplit, draw_backgrounds
from dmn.data.strokes import DRAWS_PER_STROKE, draw_curves, interpolate, paint
from dmn.models import PlainCNN
from dmn.truth.benchmark import Benchmark
from dmn.truth.training import accuracy, fit, one_thread, predict

SIZE = 40  # side of an image in pixels
STROKES = 2  # distractors beside each digit
HEIGHT = (0.6, 0.8)  # of a digit, as a share of the image's side; it is half as wide
TURN = math.radians(10)  # the largest
SLANT = 0.2  # the largest, as a share of the height
HALF_THICKNESS = (0.03, 0.04)  # as a share of the image's side
MARGIN, REACH = 0.45, 0.55  # half of the image less a stroke, of the digit's height
GAP = 0.075  # by which a stroke is shorter at each end, as a share of the image's side
TRAINING_IMAGES, EPOCHS, WIDTHS = 4000, 3, (16, 32, 48)
TEST_IMAGES = 500
CHUNK = 64  # images drawn at once
BACKGROUND_DRAWS = 4
DIGIT_DRAWS = 9  # height, turn, place, slant, thickness, colour
DRAWS = BACKGROUND_DRAWS + STROKES * DRAWS_PER_STROKE + DIGIT_DRAWS

# From the corner (right, down) to the corner; a digit's box is from (0, 0) to (1, 2).
PARTS = {
    "top": ((0, 0), (1, 0)),
    "upper right": ((1, 0), (1, 1)),
    "lower right": ((1, 1), (1, 2)),
    "bottom": ((0, 2), (1, 2)),
    "lower left": ((0, 1), (0, 2)),
    "upper left": ((0, 0), (0, 1)),
    "middle": ((0, 1), (1, 1)),
}
SEGMENTS = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 1],
        [1, 1, 1, 1, 0, 0, 1],
        [0, 1, 1, 0, 0, 1, 1],
        [1, 0, 1, 1, 0, 1, 1],
        [1, 0, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 1, 1],
    ],
    dtype=torch.bool,
)
"""Which parts each digit has, (10, 7)."""


def part_benchmark(count: int, seed: int) -> Benchmark:
    """Make digits of strokes on photographs, with the importance of every stroke, and a network.

    The network is trained in seconds, also on digits that lack one or two strokes where these are
    nearer to their own class than to any other; so that an image without a stroke is nothing new to
    it. The mask holds at the pixels of each stroke the fall of the class's logit when the image is
    drawn without it, and 0 elsewhere. All strokes of a digit have the same length and thickness.

    Args:
        count: Number of images, all classified correctly.
        seed: For the network and the images, at least 0.
    """
    model = train(seed)
    generator = torch.Generator().manual_seed(4 * seed + 2)
    found: list[ImageBatch] = []
    with one_thread(seed):
        share = accuracy(model, *_digits("test", TEST_IMAGES, 4 * seed + 1))
        while sum(len(batch.image) for batch in found) < count:
            draws = torch.rand(CHUNK, DRAWS, generator=generator)
            labels = torch.randint(len(SEGMENTS), (CHUNK,), generator=generator)
            images = draw_digits(draws, SEGMENTS[labels], "test")
            right = predict(model, images) == labels
            found.append(_with_importance(model, images[right], draws[right], labels[right]))
    return Benchmark(deepcopy(model), concatenate(found).take(slice(count)), share)


@cache
def train(seed: int) -> nn.Module:
    """Train a small network on digits of strokes, of which half lack one or two, once in a process.

    Args:
        seed: For its weights and images, at least 0.
    """
    with one_thread(seed):
        images, labels = _digits("train", TRAINING_IMAGES, 4 * seed, incomplete=True)
    return fit(PlainCNN(3, WIDTHS, grid=5), images, labels, EPOCHS, seed)


def draw_digits(draws: Tensor, present: Tensor, part: DataSplit) -> Tensor:
    """Draw digits on dimmed photographs, among strokes that mean nothing.

    Args:
        draws: Random numbers in [0, 1), (B, DRAWS); without a part, all else stays the same.
        present: Which parts to draw, (B, 7).
        part: The part of the data whose photographs are the background.

    Returns:
        Images (B, 3, S, S) in [0, 1].
    """
    photograph, strokes, digit = draws.tensor_split([BACKGROUND_DRAWS, DRAWS - DIGIT_DRAWS], dim=1)
    x = draw_backgrounds(part, photograph, SIZE)
    for stroke in strokes.view(len(draws), STROKES, DRAWS_PER_STROKE).unbind(dim=1):
        x = paint(x, draw_curves(stroke, SIZE), stroke[:, 6:])
    ink = (draw_parts(digit) * present[:, :, None, None]).amax(dim=1, keepdim=True)
    return paint(x, ink, digit[:, 6:])


def draw_parts(draws: Tensor) -> Tensor:
    """Return the ink of all parts of a digit, in [0, 1], (B, 7, S, S).

    Args:
        draws: Random numbers in [0, 1), (B, DIGIT_DRAWS).
    """
    height = interpolate(HEIGHT, draws[:, 0])
    turn, slant = TURN * (2 * draws[:, 1] - 1), SLANT * (2 * draws[:, 4] - 1)
    unit = torch.stack([turn.cos(), turn.sin()], dim=1)
    right = unit * height[:, None] / 2
    down = (torch.stack([-unit[:, 1], unit[:, 0]], dim=1) + slant[:, None] * unit) * (
        height[:, None] / 2
    )
    room = MARGIN - REACH * height  # which keeps the digit in the image, however it is turned
    centre = 0.5 + room[:, None] * (2 * draws[:, 2:4] - 1)
    ink = []
    axis = (torch.arange(SIZE) + 0.5) / SIZE
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)[None]
    thickness = interpolate(HALF_THICKNESS, draws[:, 5])[:, None, None]
    for corners in PARTS.values():
        start, end = (centre + (a - 0.5) * right + (b - 1) * down for a, b in corners)
        along = (end - start) / (end - start).norm(dim=1, keepdim=True)
        start, end = start + GAP * along, end - GAP * along
        nearest = _distance(points, start[:, None, None], end[:, None, None])
        ink.append(((thickness - nearest) * SIZE + 0.5).clamp(0, 1))
    return torch.stack(ink, dim=1)


def unambiguous(missing: int) -> list[tuple[int, Tensor]]:
    """List digits with parts missing that are nearer to their own class than to any other.

    Nearer is the digit of which fewer parts are missing, if it has all of those that are there.

    Args:
        missing: How many parts are missing.

    Returns:
        Classes, each with its present parts (7,).
    """
    found = []
    for label, parts in enumerate(SEGMENTS):
        for absent in combinations(parts.nonzero().flatten().tolist(), missing):
            present = parts.clone()
            present[list(absent)] = False
            fits = (SEGMENTS | ~present).all(dim=1)
            others = torch.where(fits, (SEGMENTS & ~present).sum(dim=1), len(PARTS) + 1)
            others[label] = len(PARTS) + 1
            if present.any() and others.min() > missing:
                found.append((label, present))
    return found


def _digits(
    part: DataSplit, count: int, seed: int, incomplete: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw images and labels; incomplete are half of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(SEGMENTS), (count,), generator=generator)
    present = SEGMENTS[labels]
    if incomplete:
        listed = [*unambiguous(1), *unambiguous(2)]
        chosen = torch.randint(len(listed), (count // 2,), generator=generator).tolist()
        labels[: count // 2] = torch.tensor([listed[index][0] for index in chosen])
        present[: count // 2] = torch.stack([listed[index][1] for index in chosen])
    draws = torch.rand(count, DRAWS, generator=generator)
    chunks = zip(torch.split(draws, CHUNK), torch.split(present, CHUNK), strict=True)
    return torch.cat([draw_digits(*chunk, part) for chunk in chunks]), labels


def _with_importance(model: nn.Module, images: Tensor, draws: Tensor, labels: Tensor) -> ImageBatch:
    """Measure what each part of each digit is worth to the network, on test images."""
    present = SEGMENTS[labels]
    ink = draw_parts(draws[:, -DIGIT_DRAWS:]) * present[:, :, None, None]
    owner = ink.argmax(dim=1)
    masks = torch.zeros_like(images[:, :1])
    before = _logits(model, images, labels)
    for index in range(len(PARTS)):
        without = present.clone()
        without[:, index] = False
        fall = before - _logits(model, draw_digits(draws, without, "test"), labels)
        pixels = (owner == index) & (ink[:, index] > 0)
        masks += (pixels * fall[:, None, None])[:, None]
    return ImageBatch(images, labels, masks)


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the logits of the images' classes, (B,)."""
    own: Tensor = model(images).gather(1, labels[:, None]).squeeze(1)
    return own


def _distance(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the distance of points to lines from start to end."""
    along = end - start
    share = ((points - start) * along).sum(-1) / along.square().sum(-1)
    nearest = start + share.clamp(0, 1)[..., None] * along
    distance: Tensor = (points - nearest).norm(dim=-1)
    return distance
