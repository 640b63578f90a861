"""Random draws that depend on the image, not on its place in a batch or on what came before."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def generators(images: Tensor | NDArray[Any], *key: int) -> list[np.random.Generator]:
    """Start one random generator an image, from its pixels and a key.

    So a score is the same in any batch, on any process, and repeats; and a perturbed image draws
    anew.

    Args:
        images: (B, ...); pixels count in float32.
        key: What else the draw depends on, each at least 0: a seed, a class, a step.
    """
    rows = images.detach().cpu().float().numpy() if isinstance(images, Tensor) else images
    return [np.random.default_rng([crc32(row.astype(np.float32).tobytes()), *key]) for row in rows]
