"""How loose bounds are, measured on points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmn.certify.bounds import bounds
from dmn.nn import eval_mode, predict_logits


@torch.no_grad()
def looseness(
    net: nn.Module, low: Tensor, high: Tensor, samples: int = 100, seed: int = 0
) -> Tensor:
    """Return how many times wider the bounds of logits are than the range that is found.

    The range is that of the logits at the ends of the box, and at random points and corners of it.
    The true range is at least as wide, so that this is an upper bound of the looseness.

    Args:
        net: As for `bounds`.
        low: Lower ends of the box (B, C, H, W).
        high: Upper ends, of the same shape.
        samples: Random points, half of them corners.
        seed: For the points.

    Returns:
        (B, K), at least 1; 1 means exact.

    Examples:
        >>> net = dmn.load("mnist_inverted").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> bool((looseness(net, *box(x, 0.1), samples=2) < 1.01).all())
        True
    """
    lower, upper, _ = bounds(net, low, high)
    generator = torch.Generator().manual_seed(seed)
    with eval_mode(net):
        found = [predict_logits(net, end) for end in (low, high)]
        for index in range(samples):
            share = torch.rand(low.shape, generator=generator).to(low)
            share = share.round() if index % 2 else share
            found.append(predict_logits(net, low + share * (high - low)))
    least, largest = torch.stack(found).double().aminmax(dim=0)
    return (upper - lower) / (largest - least)
