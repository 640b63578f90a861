"""What a benchmark is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dmn.data import ImageBatch


@dataclass(frozen=True)
class Benchmark:
    """A network, and images of which it is known what in them it uses.

    Attributes:
        model: A classifier from images (B, C, H, W) to logits (B, K), in eval mode, on the CPU, its
            parameters without gradient.
        images: Images that it classifies correctly, with the explained class and the known answer
            as mask, (N, 1, H, W): 0 or 1, or contributions of any sign for metrics with
            `signed_mask`.
        accuracy: Of the network, on images of the same kind that it was not trained on; None for
            networks that were not trained.
        mean: Subtracted from images in [0, 1].

    Examples:
        >>> from dmn.truth import BENCHMARKS
        >>> benchmark = BENCHMARKS["constructed"](4, 0)
        >>> benchmark.images.image.shape, benchmark.images.mask.shape
        (torch.Size([4, 1, 32, 32]), torch.Size([4, 1, 32, 32]))
    """

    model: nn.Module
    images: ImageBatch
    accuracy: float | None = None
    mean: float = 0.0
