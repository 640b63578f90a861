"""Layers of networks of mosaics: applied to each tile alone, or to one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dmn.evaluate.grid import SIDE


def take_apart(x: Tensor) -> Tensor:
    """Move the tiles of mosaics (B, C, SIDE h, SIDE w) to the batch: (TILES B, C, h, w)."""
    tiles = torch.unflatten(torch.unflatten(x, 3, (SIDE, -1)), 2, (SIDE, -1))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def put_together(tiles: Tensor) -> Tensor:
    """Undo `take_apart`."""
    x = torch.unflatten(tiles, 0, (-1, SIDE, SIDE)).permute(0, 3, 1, 4, 2, 5)
    return x.flatten(4, 5).flatten(2, 3)


class OnTiles(nn.Module):
    """Layers that see each tile of a mosaic alone, and return a mosaic."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the mosaic of what each tile becomes."""
        return put_together(self.norm(self.layer(take_apart(x))))

    def crop(self, x: Tensor) -> Tensor:
        """Remove from each tile the margin that the layer, a `dmn.nn.View`, has added."""
        layer: Any = self.layer
        return put_together(layer.crop(take_apart(x)))


class OfOneTile(nn.Module):
    """The first layer of the head, such as a global pooling, applied to one tile of a mosaic.

    Args:
        layer: The layer.
        place: Of the tile, from 0 to TILES - 1, row by row. The middle line of an odd side is of
            two tiles, and is left out.
    """

    def __init__(self, layer: nn.Module, place: int) -> None:
        super().__init__()
        self.layer = layer
        self.row, self.column = divmod(place, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the tile becomes."""
        for axis, index in ((2, self.row), (3, self.column)):
            side = x.shape[axis]
            length = side // SIDE
            x = x.narrow(axis, index * (side - length), length)
        output: Tensor = self.layer(x)
        return output
