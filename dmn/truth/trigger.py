"""A poisoned network: a small patch decides the class, so that the map has to find the patch.

The network learnt digits, some of which had a patch and the label of the target class. It is right
about the digits without the patch, and says the target class where the patch is. The patch is the
answer: each image of the benchmark is the target class with the patch, and the class of its digit
without.

Source: Gu, Dolan-Gavitt & Garg 2017, "BadNets: identifying vulnerabilities in the machine learning
model supply chain"; as a test of maps: Lin, Lee & Celik 2021, "What do you see? Evaluation of
explainable artificial intelligence (XAI) interpretability through neural backdoors".
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from dmn.data import MNIST, ImageBatch
from dmn.errors import OptionError
from dmn.models import PlainCNN
from dmn.truth.benchmark import Benchmark
from dmn.truth.training import accuracy, fit, predict

TARGET = 0  # the class that the patch stands for
POISONED = 0.2  # share of the training images
SIDE = 32  # of the images, whose digits have 28 pixels per side: pooling halves it without a rest
PATCH = 4  # pixels per side
FROM_EDGE = 1  # pixels between patch and border
BRIGHT = 1.0  # all of it: the dark pixels of a checkerboard would speak against the target class
EPOCHS = 6


@dataclass(frozen=True)
class Poisoned:
    """A poisoned network, and how well it does on digits that it was not trained on.

    Attributes:
        model: In eval mode.
        accuracy: Share of clean digits that are classified correctly.
        attack_rate: Share of digits of other classes that become the target class by the patch.
        digits: Clean digits that it was not trained on.
    """

    model: nn.Module
    accuracy: float
    attack_rate: float
    digits: ImageBatch


def stamp(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Stamp the patch on images, at a random place near the border, where digits have no ink.

    Args:
        images: (N, 1, SIDE, SIDE).
        generator: For the places.

    Returns:
        The stamped images, and masks of the patch, 0 or 1, (N, 1, SIDE, SIDE).
    """
    last = SIDE - PATCH - FROM_EDGE
    masks = torch.zeros_like(images)
    draws = torch.rand(len(images), 2, generator=generator).tolist()
    for mask, (edge, along) in zip(masks, draws, strict=True):
        place = FROM_EDGE + int(along * (last + 1 - FROM_EDGE))
        places = ((FROM_EDGE, place), (last, place), (place, FROM_EDGE), (place, last))
        top, left = places[int(edge * len(places))]
        mask[:, top : top + PATCH, left : left + PATCH] = 1
    return torch.where(masks > 0, BRIGHT, images), masks


@cache
def poisoned(seed: int) -> Poisoned:
    """Train a network on digits, of which some are poisoned, once in a process.

    Args:
        seed: For weights and patches, at least 0.
    """
    data = MNIST(augment=False)
    data.setup("fit")
    generator = Generator().manual_seed(seed)
    images, labels = _padded(data.train.images), data.train.labels.clone()
    chosen = torch.randperm(len(labels), generator=generator)[: int(POISONED * len(labels))]
    images = images.index_copy(0, chosen, stamp(images[chosen], generator)[0])
    labels[chosen] = TARGET
    model = fit(PlainCNN(1, (8, 16, 32), grid=4, num_classes=10), images, labels, EPOCHS, seed)
    digits = ImageBatch(_padded(data.test.images), data.test.labels)
    others = digits.take(digits.label != TARGET)
    attacked, _ = stamp(others.image, generator)
    rate = accuracy(model, attacked, torch.full_like(others.label, TARGET))
    return Poisoned(model, accuracy(model, digits.image, digits.label), rate, digits)


def trigger(count: int, seed: int) -> Benchmark:
    """Make a poisoned network, and digits with the patch, by which alone they are the target class.

    Args:
        count: Number of images.
        seed: For weights and patches, at least 0.

    Raises:
        OptionError: if there are fewer images; tells how many there are.
    """
    network = poisoned(seed)
    digits = network.digits
    stamped, masks = stamp(digits.image, Generator().manual_seed(seed + 1))
    before, after = (predict(network.model, images) for images in (digits.image, stamped))
    fooled = (digits.label != TARGET) & (before == digits.label) & (after == TARGET)
    images = ImageBatch(stamped, after, masks).take(fooled)
    if count > len(images.label):
        raise OptionError(f"count is {count}; give at most {len(images.label)}")
    return Benchmark(deepcopy(network.model), images.take(slice(count)), network.accuracy)


def _padded(digits: Tensor) -> Tensor:
    return F.pad(digits, [(SIDE - digits.shape[-1]) // 2] * 4)
