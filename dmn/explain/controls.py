"""Maps that know nothing of the network: the floor of every score."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.explain.base import Explainer
from dmn.explain.draws import generators
from dmn.explain.registry import list_methods, register
from dmn.explain.target import Target, class_indices


@register("control", "Random")
class RandomMap:
    """Uniform noise, the same each time for the same image and target.

    Args:
        seed: For the noise, at least 0.

    Examples:
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> random = RandomMap(seed=1)
        >>> torch.equal(random(x, 0), random(x, 0)), torch.equal(random(x, 0), random(x, 1))
        (True, False)
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Return noise in [0, 1), (B, 1, H, W); the target only says which."""
        targets = [-1] * len(x) if target is None else class_indices(x, target).tolist()
        noise = [
            rng.random((1, *x.shape[2:]), dtype=np.float32)
            for image, index in zip(x, targets, strict=True)
            for rng in generators(image[None], self.seed, index + 1)
        ]
        return torch.from_numpy(np.stack(noise)).to(x.device)


@register("control")
class Edges:
    """Edges of the image: the magnitude of its Sobel gradient, after a sum over channels.

    Examples:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        >>> Edges()(step)[0, 0, 0]
        tensor([0., 4., 4., 0.])
    """

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Return edge strength, (B, 1, H, W); the target does not matter."""
        axes = range(x.dim() - 2)
        difference = torch.tensor([-1.0, 0.0, 1.0], device=x.device)
        mean = torch.tensor([1.0, 2.0, 1.0], device=x.device)
        kernels = [_outer([difference if a == axis else mean for a in axes]) for axis in axes[::-1]]
        image = F.pad(x.float().sum(dim=1, keepdim=True), [1, 1] * len(axes), mode="replicate")
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(axes)]
        slopes: Tensor = convolve(image, torch.stack(kernels).unsqueeze(1))
        return slopes.square().sum(dim=1, keepdim=True).sqrt()


@register("control", "Centre")
class CentreGaussian:
    """A Gaussian bump in the middle of the image, the same for all images.

    Args:
        width: Standard deviation as a share of the image's side.

    Examples:
        >>> bump = CentreGaussian(width=0.2)(torch.zeros(1, 3, 5, 5))
        >>> bump.shape, int(bump.argmax())  # the largest value is at the centre, pixel 12 of 25
        (torch.Size([1, 1, 5, 5]), 12)
    """

    def __init__(self, width: float = 0.25) -> None:
        self.width = width

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Return the bump, (B, 1, H, W); image and target do not matter."""
        bumps = [
            torch.exp(-0.5 * (torch.linspace(-0.5, 0.5, side, device=x.device) / self.width) ** 2)
            for side in x.shape[2:]
        ]
        return _outer(bumps).expand(len(x), 1, *x.shape[2:]).contiguous()


def _outer(vectors: Iterable[Tensor]) -> Tensor:
    """Return the products of all elements of vectors, with one axis for each vector."""
    return reduce(lambda product, vector: product[..., None] * vector, vectors)


def controls(seed: int = 0) -> dict[str, Explainer]:
    """Make all controls, by name: maps that any method should beat.

    Args:
        seed: For the random ones, at least 0.

    Examples:
        >>> list(controls())
        ['Random', 'Edges', 'Centre']
    """
    return {
        spec.name: spec.factory(**({"seed": seed} if "seed" in spec.options else {}))
        for spec in list_methods("control")
    }
