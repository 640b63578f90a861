"""Random generators that depend on the image only, not on its batch or on earlier draws."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def generators(images: Tensor | NDArray[Any], *key: int) -> list[np.random.Generator]:
    """Return one random generator per image, seeded by its pixels and a key.

    A score is then the same in any batch and in any process, and can be repeated. A perturbed image
    gets another generator.

    Args:
        images: (B, ...); pixels count in float32.
        key: Further seeds, at least 0: a seed, a class, a step.
    """
    rows = images.detach().cpu().float().numpy() if isinstance(images, Tensor) else images
    return [np.random.default_rng([crc32(row.astype(np.float32).tobytes()), *key]) for row in rows]
