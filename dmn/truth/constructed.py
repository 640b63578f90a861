"""A network with weights set by hand, of which the contribution of each pixel is known.

It counts glyphs exactly. Its logits are a bias and the sum of the weights of all glyphs in the
image, positive, negative or 0, by class. It is written as a trained network might be: with
BatchNorm of random statistics, channels of random scales, and features that mix glyphs.

Source: the idea is of Brandt, Raatjens & Gaydadjiev 2023, "Precise benchmarking of explainable AI
    attribution methods".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmn.data import ImageBatch
from dmn.truth.benchmark import Benchmark

_DRAWN = """
..#..  #...#  #####  #####  #...#  #####  #...#  ..#..
..#..  .#.#.  #...#  ..#..  #...#  ...#.  #...#  .#.#.
#####  ..#..  #...#  ..#..  #####  ..#..  #...#  #...#
..#..  .#.#.  #...#  ..#..  #...#  .#...  #...#  .#.#.
..#..  #...#  #####  ..#..  #...#  #####  #####  ..#..
"""
NAMES = ("plus", "cross", "square", "tee", "aitch", "zed", "cup", "diamond")
SIDE = 5  # of a glyph
PART = 3  # side of a part; a glyph has four, which share its middle lines
CLASSES = 3
IMAGE = 32
CELL = 10  # the image is a grid of cells, each with room for a glyph and a gap
GRID = 3
KNOWN = 7  # glyphs with a detector
FEATURES = 12
THRESHOLD = 0.1  # of features, so that they are off where no glyph is
# For the first six glyphs, all ways to speak for one class, against another, and for neither. The
# seventh has detectors whose effects cancel, the last one has none. The logits of all classes have
# a constant sum, so that it makes no difference whether an explanation subtracts their mean.
SIGNS = torch.tensor(
    [
        [1, 1, -1, -1, 0, 0, 0, 0],
        [-1, 0, 1, 0, 1, -1, 0, 0],
        [0, -1, 0, 1, -1, 1, 0, 0],
    ]
)


def glyphs() -> Tensor:
    """Return all glyphs, 0 or 1, (8, 5, 5), in the order of `NAMES`."""
    rows = [line.split() for line in _DRAWN.split("\n") if line]
    return torch.tensor(
        [[[float(mark == "#") for mark in row[i]] for row in rows] for i in range(len(NAMES))]
    )


class ConstructedCNN(nn.Sequential):
    """A network that counts glyphs; see `constructed`.

    The first convolution finds 3 x 3 parts of glyphs, the second finds glyphs by their four parts,
    and the third mixes them to features, whose means the head weighs. A unit that finds something
    is far from the kink of its ReLU, so that rounding changes no gradient.

    Args:
        seed: For the weights of the glyphs, and for all that does not change the function.
        dtype: Of its parameters.

    Attributes:
        weights: What each glyph adds to the logits, (3, 8), float64.
        bias: The logits of an image without glyphs, (3,), float64.

    Examples:
        >>> net, image = ConstructedCNN(), torch.zeros(1, 1, 32, 32)
        >>> image[0, 0, 9:14, 20:25] = glyphs()[NAMES.index("tee")]
        >>> torch.allclose(net(image)[0].double(), net.bias + net.weights[:, 3], atol=1e-4)
        True
    """

    weights: Tensor
    bias: Tensor

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        random = torch.Generator().manual_seed(seed)
        weights = SIGNS * _uniform(random, 1, 2, len(NAMES))
        bias = _uniform(random, -0.5, 0.5, CLASSES)
        mix = _uniform(random, 0.3, 1, FEATURES, KNOWN)
        parts = torch.unique(_parts().flatten(0, 1), dim=0)
        designs = [
            (2 * (2 * parts - 1).unsqueeze(1), 1 - 2 * parts.sum(dim=(1, 2))),
            (2 * _joined(parts)[:KNOWN], torch.full((KNOWN,), -7.0)),  # four parts: 2 x 4 - 7 = 1
            (mix.view(FEATURES, KNOWN, 1, 1), torch.full((FEATURES,), -THRESHOLD)),
        ]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        scale = torch.ones(1, dtype=torch.float64)
        for place, (weight, shift) in enumerate(designs, start=1):
            conv, norm, scale = _with_random_norm(weight, shift, scale, random)
            layers |= {f"conv{place}": conv, f"norm{place}": norm, f"relu{place}": nn.ReLU()}
            if place == 2:
                layers["pool"] = nn.MaxPool2d(2)
        layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["head"] = nn.Linear(FEATURES, CLASSES)
        layers["head"].weight.data = _head(weights[:, :KNOWN], mix - THRESHOLD, random) / scale
        layers["head"].bias.data = bias.clone()
        super().__init__(layers)
        self.to(dtype).eval().requires_grad_(False)
        self.weights, self.bias = weights, bias


def constructed(count: int, seed: int) -> Benchmark:
    """Return a network set by hand, and scenes of glyphs with the contribution of each pixel.

    Args:
        count: Number of images.
        seed: For the network and the images.

    Returns:
        Images (N, 1, 32, 32), glyphs of 1 on a ground of 0, in which there are glyphs for the
        predicted class, against it, and neither. The mask holds the weight of a glyph for this
        class at its lit pixels, and 0 elsewhere. This is by how much the logit falls if one pixel
        is made dark, as a glyph is found only if it is whole. The network needs the dark pixels
        within a glyph, too, but they are no different from the ground; they count as 0.

    Examples:
        >>> benchmark = constructed(4, seed=0)
        >>> image, label, mask = benchmark.images
        >>> image.shape, torch.equal(benchmark.model(image).argmax(dim=1), label)
        (torch.Size([4, 1, 32, 32]), True)
    """
    model = ConstructedCNN(seed)
    random = torch.Generator().manual_seed(seed)
    images: list[Tensor] = []
    labels: list[int] = []
    masks: list[Tensor] = []
    while len(images) < count:
        scene = draw_scene(random)
        logits = model.bias + model.weights[:, scene.glyphs].sum(dim=1)
        label = int(logits.argmax())
        effects = model.weights[label, scene.glyphs]
        if all((effects.sign() == sign).any() for sign in (-1, 0, 1)):
            images.append(scene.image)
            labels.append(label)
            padded = torch.cat([torch.zeros(1, dtype=torch.float64), effects])
            masks.append(padded[scene.owner].float())
    batch = ImageBatch(torch.stack(images), torch.tensor(labels), torch.stack(masks))
    return Benchmark(model, batch)


class Scene(NamedTuple):
    """An image of glyphs.

    Attributes:
        image: (1, 32, 32), 0 or 1.
        glyphs: Which glyphs are in it, (G,).
        owner: For each pixel 1 + the place in `glyphs` of the glyph that lit it, (1, 32, 32); 0 for
            the ground.
    """

    image: Tensor
    glyphs: Tensor
    owner: Tensor


def draw_scene(random: torch.Generator) -> Scene:
    """Draw 5 to 8 glyphs in the cells of a grid, each somewhere in its cell."""
    count = int(torch.randint(5, 9, (), generator=random))
    cells = torch.randperm(GRID**2, generator=random)[:count]
    found = torch.randint(len(NAMES), (count,), generator=random)
    shifts = torch.randint(CELL - SIDE, (count, 2), generator=random)  # and so a gap of one pixel
    owner = torch.zeros(1, IMAGE, IMAGE, dtype=torch.long)
    drawn = glyphs().long()
    for place, (cell, glyph, shift) in enumerate(zip(cells, found, shifts, strict=True), start=1):
        top, left = (1 + CELL * (cell // GRID) + shift[0]), (1 + CELL * (cell % GRID) + shift[1])
        owner[0, top : top + SIDE, left : left + SIDE] = place * drawn[glyph]
    return Scene((owner > 0).float(), found, owner)


def _parts() -> Tensor:
    """Return the four parts of each glyph, (8, 4, 3, 3), row by row, float64."""
    step = SIDE - PART
    return glyphs().double().unfold(1, PART, step).unfold(2, PART, step).flatten(1, 2)


def _joined(parts: Tensor) -> Tensor:
    """Return filters (8, P, 3, 3) that count the parts of a glyph around its centre."""
    filters = torch.zeros(len(NAMES), len(parts), PART, PART, dtype=torch.float64)
    corners = [(row, column) for row in (0, -1) for column in (0, -1)]
    for glyph, own in enumerate(_parts()):
        for part, (row, column) in zip(own, corners, strict=True):
            filters[glyph, (parts == part).all(dim=2).all(dim=1), row, column] = 1
    return filters


def _with_random_norm(
    weight: Tensor, shift: Tensor, scale: Tensor, random: torch.Generator
) -> tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]:
    """Write a convolution as one with BatchNorm of random statistics, and channels of new scales.

    Args:
        weight: (O, I, k, k).
        shift: (O,).
        scale: Of the channels that it gets, (I,) or (1,).
        random: For the statistics and the scales.

    Returns:
        The convolution, the norm, and the scale of the channels that they return, (O,).
    """
    outputs, inputs, size, _ = weight.shape
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    norm = nn.BatchNorm2d(outputs)
    new_scale = _uniform(random, 0.5, 2, outputs)
    sign = torch.randint(2, (outputs,), generator=random) * 2 - 1
    gamma = sign * _uniform(random, 0.5, 2, outputs)
    mean, variance = _uniform(random, -1, 1, outputs), _uniform(random, 0.5, 2, outputs)
    slope = gamma / (variance + norm.eps).sqrt()
    by_output = (new_scale / slope).view(-1, 1, 1, 1)
    conv.weight.data = weight * by_output / scale.view(1, -1, 1, 1)
    norm.weight.data, norm.bias.data = gamma, new_scale * shift + slope * mean
    norm.running_mean, norm.running_var = mean, variance
    return conv, norm, new_scale


def _head(weights: Tensor, mix: Tensor, random: torch.Generator) -> Tensor:
    """Return weights (K, F) of the mean features, for those (K, G) of the glyphs."""
    inverse = torch.linalg.pinv(mix)
    free = torch.randn(len(weights), len(mix), generator=random, dtype=torch.float64)
    unseen = free - free @ mix @ inverse  # of which no glyph has an effect
    positions = (IMAGE // 2) ** 2  # over which the means are
    by_feature: Tensor = (weights @ inverse + unseen) * positions
    return by_feature


def _uniform(random: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=random)
