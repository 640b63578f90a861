"""The share of images whose class is right, and certain."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from dmn.certify import box, certain
from dmn.errors import OptionError


class CertifiedAccuracy(Metric):
    """Share of images that are given the right class, and so is every image near them.

    Near is what differs from the image by at most eps in each pixel, and is in the range of images.
    The share is a lower bound: what is not certain need not be wrong.

    Args:
        eps: Largest change of a pixel, at least 0.
        low: Least value of a pixel.
        high: Largest value of a pixel.

    Raises:
        OptionError: if eps is negative.

    Source: Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably
        Robust Models, 2018 ("verified" accuracy).

    Examples:
        >>> from dmn.data import MNIST
        >>> data = MNIST()
        >>> data.setup("test")
        >>> x, y = data.test.images[:5], data.test.labels[:5]
        >>> metric = CertifiedAccuracy(eps=0.01)
        >>> metric.update(dmn.load("mnist_inverted").model, x, y)
        >>> metric.compute()
        tensor(0.8000)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    right: Tensor
    count: Tensor

    def __init__(self, eps: float, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if not eps >= 0:
            raise OptionError(f"eps is {eps}; give a number of at least 0")
        self.eps, self.low, self.high = eps, low, high
        for state in ("right", "count"):
            self.add_state(state, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Count the images of a batch that are certain.

        Args:
            model: As for `dmn.certify.bounds`.
            x: Images (B, C, H, W).
            y: Their classes (B,).
        """
        ends = box(x, self.eps, low=self.low, high=self.high)
        self.right += certain(model, *ends, y).sum()
        self.count += len(x)

    def compute(self) -> Tensor:
        """Return the share; NaN if there were no images."""
        return self.right / self.count
