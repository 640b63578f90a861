"""The places of an image in what a layer returns: pixels, or tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

from torch import Tensor

Sides = tuple[int, ...]
USUAL_PREFIX = 5  # a class token and four registers
LONGEST_PREFIX = 16


class Grid(NamedTuple):
    """How an output holds an image: which axis has the channels, and which the places.

    Attributes:
        sides: Number of places by axis of the image, (h, w).
        channels: The axis of channels, 1 or -1.
        flat: Whether all places share one axis, as tokens.
        prefix: Number of tokens before those of the image, such as class and register tokens.

    Examples:
        >>> tokens = torch.rand(2, 17, 8)  # of a ViT: a class token and 4 x 4 patches
        >>> grid = Grid((4, 4), channels=-1, flat=True, prefix=1)
        >>> grid.to_image(tokens).shape
        torch.Size([2, 8, 4, 4])
        >>> torch.equal(grid.to_image(tokens)[0, :, 1, 2], tokens[0, 1 + 4 + 2])
        True
    """

    sides: Sides
    channels: int = 1
    flat: bool = False
    prefix: int = 0

    def to_image(self, x: Tensor) -> Tensor:
        """Return an output, or a gradient by it, as an image (B, C, h, w).

        Tokens that are not of the image are left out.

        Args:
            x: (B, C, h, w), (B, h, w, C), (B, prefix + h w, C) or (B, C, prefix + h w).
        """
        x = x.movedim(self.channels, 1)
        if not self.flat:
            return x
        return x[:, :, self.prefix :].reshape(*x.shape[:2], *self.sides)

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether an output of this shape can be read so."""
        if not self.flat:
            return len(shape) == len(self.sides) + 2
        places = 1 if self.channels == -1 else 2
        return len(shape) == 3 and shape[places] == self.prefix + prod(self.sides)


class GridFinder:
    """Find the grids of a network's outputs by their shapes, one after the other as it runs.

    An output with channels and places on axes of their own holds an image if the axes of places
    have the image's aspect, or if nothing speaks for another reading. (B, C, h, w) is preferred to
    (B, h, w, C). Tokens, (B, prefix + h w, C) or (B, C, prefix + h w), hold an image if h and w are
    the sides of an earlier output, or of the last one divided by an integer. Where the channels
    are last, a grid grows only back to one that was there before. Windows (B n, ...), also padded
    ones, heads and weights of attention, and pooled tokens are no images.

    Shapes do not tell: which of two axes has the channels if both fit; that tokens are in another
    order than the image's rows, were rolled, or were padded to windows as large as an earlier grid;
    which tokens were dropped. Signals and volumes have no tokens here.

    Args:
        shape: Of the images, (B, C, H, W). B > 1 tells outputs apart that are the same for all
            images, such as position biases.

    Examples:
        >>> finder = GridFinder((2, 3, 32, 32))
        >>> for shape in [(2, 16, 4, 4), (2, 17, 16), (2, 4, 17, 17), (2, 16)]:
        ...     print(finder.find(shape))
        Grid(sides=(4, 4), channels=1, flat=False, prefix=0)
        Grid(sides=(4, 4), channels=-1, flat=True, prefix=1)
        None
        None
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._batch, self._image = shape[0], tuple(shape[2:])
        self._previous = Grid(self._image)
        # sides of earlier outputs, the last ones last, with their numbers of channels
        self._seen: dict[Sides, set[int]] = {}

    def find(self, shape: Sequence[int], features: int | None = None) -> Grid | None:
        """Return how the next output holds an image; None if it holds none.

        Args:
            shape: Of the output, with its batch.
            features: Size of the last axis by the weights of the layer, if known. It tells where
                the channels are in signals and volumes, whose sides tell too little.
        """
        if not shape or shape[0] != self._batch:
            return None
        others = shape[1:]
        grid = self._find(tuple(others), features)
        if grid is None or prod(grid.sides) == 1:
            return grid
        channels = others[0 if grid.channels == 1 else -1]
        known = self._seen.get(grid.sides, set())
        grows = prod(grid.sides) > prod(self._previous.sides)
        if grows and grid.channels == -1 and channels not in known:
            return None  # a window, or padded for windows
        self._previous = grid
        if grid.sides != self._image:
            self._seen.pop(grid.sides, None)
            self._seen[grid.sides] = known | {channels}
        return grid

    def _find(self, shape: Sides, features: int | None) -> Grid | None:
        axes = len(self._image)
        if len(shape) == axes + 1:
            return self._apart(shape, features)
        tokens = axes == len(shape) == 2 and min(shape) > 1
        return next(self._tokens(shape), None) if tokens else None

    def _apart(self, shape: Sides, features: int | None) -> Grid | None:
        """Return the grid of an output whose places have axes of their own."""
        first, last = shape[1:], shape[:-1]
        if len(self._image) != 2:
            channels_last = shape[0] != features == shape[-1]
            return Grid(last, -1) if channels_last else Grid(first)
        channels_last = self._has_aspect(last) and (
            not self._has_aspect(first)
            or (last == self._previous.sides and self._previous.channels == -1)
        )
        sides = last if channels_last else first
        return Grid(sides, -1 if channels_last else 1) if self._is_image(shape, sides) else None

    def _is_image(self, shape: Sides, sides: Sides) -> bool:
        """Return whether axes are those of an image, not of windows or of attention."""
        previous = self._previous
        if sides in self._seen or sides in _divided(previous.sides):
            return True
        has_aspect = self._has_aspect(sides)
        if previous.flat or (previous.channels == -1 and not has_aspect):
            return False
        places = prod(previous.sides)
        if places <= max(previous.sides) or sides == self._image:
            return True
        if has_aspect:  # attention has a weight for each pair of places
            return shape[0] * shape[1] != places and sides != (places, places)
        return places not in (shape[0], shape[0] * shape[1], *sides, prod(sides))

    def _has_aspect(self, sides: Sides) -> bool:
        (rows, columns), (height, width) = sides, self._image
        return abs(rows * width - columns * height) < max(height, width)  # by less than a pixel

    def _tokens(self, shape: Sides) -> Iterator[Grid]:
        """Yield the grids that tokens may have, the likeliest first."""
        count, features = shape
        earlier = sorted({0, self._previous.prefix})
        yield from self._of_known(count, -1, range(USUAL_PREFIX + 1))
        yield from self._of_known(features, 1, earlier)
        yield from self._of_known(count, -1, range(LONGEST_PREFIX + 1))
        last = self._previous.sides
        usual = earlier if self._seen else [*range(USUAL_PREFIX + 1)]
        orders = ((-1, count, usual), (1, features, earlier))
        for exact, (axis, length, prefixes) in product((True, False), orders):
            for prefix, sides in product(prefixes, _divided(last, exact)):
                if prod(sides) == length - prefix > 1 and self._has_aspect(sides):
                    yield Grid(sides, axis, True, prefix)

    def _of_known(self, length: int, channels: int, prefixes: Iterable[int]) -> Iterator[Grid]:
        """Yield the grids of earlier outputs that an axis of this length may have."""
        known = [*reversed(self._seen), self._image] if channels == -1 else [self._previous.sides]
        for prefix in prefixes:
            for sides in known:
                if prod(sides) == length - prefix:
                    yield Grid(sides, channels, True, prefix)


def _divided(sides: Sides, exact: bool = False) -> Iterator[Sides]:
    """Yield sides divided by one integer, rounded down or up, or only if nothing is rounded."""
    for divisor in range(2, max(sides) + 1):
        rounded = [dict.fromkeys((side // divisor, -(-side // divisor))) for side in sides]
        if not exact or all(len(lengths) == 1 for lengths in rounded):
            yield from product(*rounded)
