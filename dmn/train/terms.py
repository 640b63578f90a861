"""Terms of the loss beside the cross-entropy: the base class, and distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.data import ImageBatch
from dmn.hub import load


class Term:
    """Base class of terms that are added to the cross-entropy; subclasses define `__call__`.

    Args:
        weight: Factor of the term; not negative.

    Attributes:
        progress: Share of the run's steps that are done, in [0, 1], which the task keeps; 1 outside
            a run, and in a run without end.

    Examples:
        >>> import torch
        >>> from dmn.models import PlainCNN
        >>> from dmn.train import ClassificationTask, Term
        >>> class LogitPenalty(Term):
        ...     def __call__(self, net, batch, logits):
        ...         return logits.square().mean()
        >>> LogitPenalty()(None, None, torch.tensor([[1.0, 3.0]]))
        tensor(5.)
        >>> task = ClassificationTask(PlainCNN(), terms={"logits": LogitPenalty(weight=0.1)})
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight, self.progress = weight, 1.0

    def __call__(self, net: nn.Module, batch: ImageBatch, logits: Tensor) -> Tensor:
        """Return the term, a single number.

        Args:
            net: The network.
            batch: The training batch.
            logits: The network's logits of the batch, (B, K).
        """
        raise NotImplementedError


class Distillation(Term):
    """Keep the predictions close to a teacher's: KL(teacher || network) at a temperature.

    The teacher sees the same images as the network, including augmentation, so it must have been
    trained on data with the same normalisation.

    Args:
        teacher: A network with the same classes, by any name that `dmn.load` takes, e.g. a run's
            folder.
        weight: Factor of the term, which is already multiplied by the square of the temperature.
        temperature: Divides the logits of both; above 1, small probabilities count more.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015.

    Examples:
        >>> import torch
        >>> from dmn.data import ImageBatch
        >>> from dmn.models import PlainCNN
        >>> from dmn.train import ClassificationTask, Distillation
        >>> distillation = Distillation("mnist_paired", weight=0.5, temperature=4)
        >>> task = ClassificationTask(PlainCNN(), terms={"distillation": distillation})
        >>> batch = ImageBatch(torch.rand(2, 1, 28, 28), torch.tensor([0, 1]))
        >>> distillation(task.net, batch, task(batch.image)).item() > 0
        True
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
