"""The grid pointing game: in which tile of a mosaic of images is the evidence for a class?

Source: Böhle, Fritz & Schiele 2021, "Convolutional dynamic alignment networks for interpretable
classifications".
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from dmn.errors import UnsupportedError
from dmn.evaluate.batch import Array, ExplainedBatch, Scores
from dmn.explain.target import probabilities

SIDE = 2
TILES = SIDE * SIDE


def arrange(batch: ExplainedBatch, scores: Scores) -> Array:
    """Choose the images of each mosaic: of distinct classes, and correctly classified.

    Classes with most remaining images come first, so that few images are left over. Of each class
    the image with the highest confidence is taken.

    Args:
        batch: All images.
        scores: Where it is recorded why an image is in no mosaic.

    Returns:
        Indices (M, TILES).
    """
    logits = torch.cat([batch.logits(x).double() for x in torch.split(batch.x, TILES**2)]).cpu()
    y = batch.y.cpu()
    confidence = probabilities(logits).gather(1, y.unsqueeze(1)).squeeze(1)
    correct = logits.argmax(dim=1) == y
    scores.note(np.flatnonzero(~correct), "not classified as this class")
    remaining: dict[int, list[int]] = defaultdict(list)
    for row in confidence.argsort(stable=True).tolist():
        if correct[row]:
            remaining[int(y[row])].append(row)
    mosaics = []
    while len(remaining) >= TILES:
        order = sorted(
            remaining, key=lambda c: (-len(remaining[c]), -confidence[remaining[c][-1]].item(), c)
        )
        mosaics.append([remaining[c].pop() for c in order[:TILES]])
        remaining = {c: rows for c, rows in remaining.items() if rows}
    for rows in remaining.values():
        scores.note(rows, f"left over by mosaics of {TILES} classes")
    return np.array(mosaics, dtype=int).reshape(-1, TILES)


def grid_pointing_game(batch: ExplainedBatch) -> Scores:
    """Return the share of positive attribution to each image's class that lies in its tile.

    Args:
        batch: Images in the order of their mosaics, TILES per mosaic.

    Raises:
        UnsupportedError: if the network or the explainer refuses the mosaic's size; names it.
    """
    mosaics = tile(batch.x).repeat_interleave(TILES, dim=0)
    try:
        maps = batch.explain(mosaics, batch.y).double()
    except Exception as error:
        size = " x ".join(map(str, mosaics.shape[-2:]))
        raise UnsupportedError(f"no map of a mosaic of {size} pixels: {error}") from error
    cells = cell_sums(maps)
    rows = torch.arange(len(maps), device=maps.device)
    shares = cells[rows, rows % TILES] / cells.sum(dim=1)
    return Scores(shares.cpu().numpy())


def tile(images: Tensor) -> Tensor:
    """Join images (TILES M, C, H, W) row by row to mosaics (M, C, SIDE H, SIDE W)."""
    channels, height, width = images.shape[1:]
    tiles = images.reshape(-1, SIDE, SIDE, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(-1, channels, SIDE * height, SIDE * width)


def cell_sums(maps: Tensor) -> Tensor:
    """Sum the positive values of maps (M, 1, SIDE H, SIDE W) in each tile: (M, TILES)."""
    height, width = (side // SIDE for side in maps.shape[-2:])
    tiles = maps.clamp(min=0).reshape(-1, SIDE, height, SIDE, width)
    return tiles.sum(dim=(2, 4)).flatten(1)
