"""Images whose class is told by a pattern that was put there, and networks that learnt it.

Patterns are tetrominoes of four square cells, in noise around a mean grey. In all variants but
"rigid", class 1 has a T at a fixed place and class 0 has not, and class 1 is explained. All pixels
outside the T have the same distribution in both classes, so that by statistical association those
of the T are the exact answer. In "rigid" the class is the shape, a T or an L, whose place and
rotation are random; the pixels beside it, which stay grey, tell the shape, too, and count as wrong,
so that no map needs to be perfect there.

The grey is subtracted, so that methods that compare with 0, such as occlusion, remove a pattern by
it.

Source: the idea of Clark, Budding & Haufe 2023, "XAI-TRIS: non-linear image benchmarks to quantify
false positive post-hoc attribution of feature importance". What counts as right is of Haufe et al.
2014, "On the interpretation of weight vectors of linear models in multivariate neuroimaging".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from dmn.data import ImageBatch, concatenate
from dmn.models import PlainCNN
from dmn.truth.benchmark import Benchmark
from dmn.truth.training import accuracy, fit, one_thread, predict

Draw = Callable[[int, Generator], ImageBatch]
Paint = Callable[[Tensor, Tensor, Generator], Tensor]

SIDE = 32
CELL = 4  # pixels per side of a cell of a pattern
GREY = 0.5  # the mean of the background, which is subtracted: what an image lacks is 0
NOISE = 0.12  # standard deviation of the background
BLUR = 3.0  # pixels, standard deviation of the Gaussian that correlates the background
T_SHAPE = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
L_SHAPE = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
TRAINING, HELD_OUT = 4000, 1000  # images
BLOCK = 256  # images drawn at once


def _pixels(shape: Tensor) -> Tensor:
    return shape.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)


def _placed(shape: Tensor, down: int, right: int) -> Tensor:
    """Return where a pattern is, 0 or 1, (1, SIDE, SIDE)."""
    height, width = shape.shape
    below, beside = SIDE - down - height, SIDE - right - width
    return F.pad(shape, (right, beside, down, below)).unsqueeze(0)


# Not at multiples of 4, so that maps made of squares or of a layer's cells have no advantage.
T = _placed(_pixels(T_SHAPE), 5, 6)
L = _placed(_pixels(L_SHAPE), 17, 19)


def draw(variant: str, count: int, generator: Generator) -> ImageBatch:
    """Draw images of both classes with their patterns.

    Args:
        variant: A key of `VARIANTS`.
        count: Number of images.
        generator: For all random numbers.

    Returns:
        Images minus a mean grey, in [-0.5, 0.5], (count, 1, SIDE, SIDE), with the pixels of the
        pattern that tells the class; none in class 0 of all variants but "rigid".
    """
    return VARIANTS[variant](count, generator)


@cache
def trained(variant: str, seed: int) -> tuple[nn.Module, float]:
    """Train a network, once in a process; returns its accuracy on images it has not seen, too.

    Args:
        variant: A key of `VARIANTS`.
        seed: For images and weights, at least 0.
    """
    with one_thread(seed):
        images, labels, _ = draw(variant, TRAINING, Generator().manual_seed(3 * seed))
        unseen = draw(variant, HELD_OUT, Generator().manual_seed(3 * seed + 1))
    epochs, grid = (6, 2) if variant == "rigid" else (3, 4)
    model = fit(PlainCNN(1, (8, 16, 32), grid, num_classes=2), images, labels, epochs, seed)
    return model, accuracy(model, unseen.image, unseen.label)


def patterns(variant: str, count: int, seed: int) -> Benchmark:
    """Make a network and images with patterns that it has not seen and classifies correctly.

    Args:
        variant: A key of `VARIANTS`.
        count: Number of images.
        seed: For images and weights, at least 0.
    """
    model, rate = trained(variant, seed)
    generator = Generator().manual_seed(3 * seed + 2)
    found: list[ImageBatch] = []
    while sum(len(batch.label) for batch in found) < count:
        with one_thread(seed):
            batch = draw(variant, BLOCK, generator)
        assert batch.mask is not None
        right = predict(model, batch.image) == batch.label
        found.append(batch.take(right & batch.mask.flatten(1).any(dim=1)))
    return Benchmark(deepcopy(model), concatenate(found).take(slice(count)), rate, GREY)


def _fixed(paint: Paint, count: int, generator: Generator) -> ImageBatch:
    labels, others = torch.randint(2, (2, count), generator=generator)
    present, other = (each.float().view(-1, 1, 1, 1) for each in (labels, others))
    images = paint(present, other, generator).clamp(-GREY, GREY)
    return ImageBatch(images, labels, present * T)


def _noise(count: int, generator: Generator, margin: int = 0) -> Tensor:
    side = SIDE + 2 * margin
    return torch.randn(count, 1, side, side, generator=generator)


def _linear(present: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Brighten a T in class 1, and an L in half of all images, which says nothing of the class."""
    return NOISE * _noise(len(present), generator) + 0.09 * (present * T + other * L)


def _multiplicative(present: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Raise the contrast of the noise, whose mean stays, where the patterns of `_linear` are."""
    return NOISE * _noise(len(present), generator) * (1 + 0.75 * (present * T + other * L))


def _correlated(present: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Brighten the patterns of `_linear` in smooth noise: what is seen beside them can be removed.

    A little white noise is added, as edges would be seen too easily in smooth noise alone.
    """
    margin = round(3 * BLUR)
    kernel = torch.exp(-0.5 * (torch.arange(-margin, margin + 1) / BLUR).square())
    kernel = kernel / kernel.square().sum().sqrt()  # keeps the standard deviation of white noise
    smooth = _noise(len(present), generator, margin)
    smooth = F.conv2d(F.conv2d(smooth, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    white = _noise(len(present), generator)
    return NOISE * (smooth + white / 4) + 0.054 * (present * T + other * L)


def _suppressor(present: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Brighten a T in class 1, and shift the brightness of the T and of an L by the same noise.

    The L says nothing of the class by itself, but the difference of T and L says more of it than
    the T alone, by which no classifier is right in more than 62 % of all images.
    """
    count = len(present)
    shift = NOISE * torch.randn(count, 1, 1, 1, generator=generator)
    return NOISE / 2 * _noise(count, generator) + 0.072 * present * T + shift * (T + L)


def _rigid(count: int, generator: Generator) -> ImageBatch:
    """Brighten a T or an L at a random place, in one of four rotations."""
    labels = torch.randint(2, (count,), generator=generator)
    draws = torch.rand(count, 3, generator=generator)
    masks = torch.zeros(count, 1, SIDE, SIDE)
    for mask, label, (turn, down, right) in zip(
        masks, labels.tolist(), draws.tolist(), strict=True
    ):
        shape = _pixels(torch.rot90((T_SHAPE, L_SHAPE)[label], int(4 * turn)))
        height, width = shape.shape
        mask[:] = _placed(shape, int(down * (SIDE - height + 1)), int(right * (SIDE - width + 1)))
    images = (0.1 * _noise(count, generator) + 0.2 * masks).clamp(-GREY, GREY)
    return ImageBatch(images, labels, masks)


VARIANTS: Mapping[str, Draw] = {
    "linear": partial(_fixed, _linear),
    "multiplicative": partial(_fixed, _multiplicative),
    "rigid": _rigid,
    "correlated": partial(_fixed, _correlated),
    "suppressor": partial(_fixed, _suppressor),
}
"""How the images of each benchmark are drawn."""
