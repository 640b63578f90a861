"""What may be added to the loss of a training run: distillation, and a penalty of one's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.data import ImageBatch
from dmn.hub import load


class Term:
    """Something to be kept small while training, beside the cross-entropy.

    Args:
        weight: What it is multiplied by; not negative.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, net: nn.Module, batch: ImageBatch, logits: Tensor) -> Tensor:
        """Return the term of a batch with the network's logits (B, K)."""
        raise NotImplementedError


class Distillation(Term):
    """Stay close to what a trained teacher says: KL(teacher || network) at a temperature.

    The teacher sees the images as the network does, augmentation included, so it must have been
    trained on data normalised alike.

    Args:
        teacher: Of the same classes, by any name that `dmn.load` takes, e.g. a run's folder.
        weight: What the term, already multiplied by the temperature's square, is multiplied by.
        temperature: Divides the logits of both; above 1 small probabilities count more.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015.
    """

    def __init__(self, teacher: str, weight: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(weight)
        self.teacher, self.temperature = load(teacher), temperature

    def __call__(self, net: nn.Module, batch: ImageBatch, logits: Tensor) -> Tensor:
        """Return the divergence, averaged over the batch."""
        images = batch.image
        with torch.no_grad():
            taught = self.teacher.model.to(images.device)(images)
        return self.temperature**2 * F.kl_div(
            F.log_softmax(logits / self.temperature, dim=1),
            F.log_softmax(taught / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
