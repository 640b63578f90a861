"""Training for certainty: the loss of the worst image near each training image."""

from __future__ import annotations

from typing import cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmn.certify import box, worst_logits
from dmn.data import ImageBatch
from dmn.errors import OptionError
from dmn.nn import eval_mode
from dmn.train.terms import Term


class WorstCaseLoss(Term):
    """A bound of the cross-entropy of every image within epsilon of a training image.

    The bound is that of interval arithmetic, computed in eval mode and float32. Epsilon and the
    weight of the term rise together, from 0 to their full values.

    Args:
        eps: How far each pixel may move, at the end; choose it a little above the one to certify.
        weight: Factor of the term at the end.
        start: Share of the run's steps before the rise.
        rise: Share of its steps in which epsilon rises; both add up to 1 at most.

    Raises:
        OptionError: if epsilon or a share is out of range.
        UnsupportedError: when called, if an operation of the network has no rule; lists all.

    Source: Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably
        Robust Models, 2018.

    Examples:
        >>> import dmn
        >>> from dmn.data import MNIST
        >>> from dmn.train import ClassificationTask, WorstCaseLoss
        >>> data = MNIST(batch_size=8)
        >>> data.setup("fit")
        >>> batch, net = next(iter(data.train_dataloader())), dmn.load("mnist_inverted").model
        >>> term, logits = WorstCaseLoss(eps=0.01), net(batch.image)
        >>> bool(term(net, batch, logits) >= nn.CrossEntropyLoss()(logits, batch.label))
        True
        >>> task = ClassificationTask(net, terms={"worst_case": term})  # logs train/worst_case
    """

    def __init__(
        self, eps: float = 0.05, weight: float = 1.0, start: float = 0.1, rise: float = 0.4
    ) -> None:
        super().__init__(weight)
        if not 0 < eps <= 1:
            raise OptionError(f"eps is {eps}; give a number above 0, up to 1, the range of pixels")
        if min(start, rise) < 0 or start + rise > 1:
            raise OptionError(f"start is {start}, rise {rise}; give shares, of 1 at most together")
        self.eps, self.start, self.rise = eps, start, rise

    @property
    def strength(self) -> float:
        """The share of epsilon and of the weight that counts now, in [0, 1]."""
        since = self.progress - self.start
        return min(max(since / self.rise, 0.0), 1.0) if self.rise else float(since >= 0)

    def __call__(self, net: nn.Module, batch: ImageBatch, logits: Tensor) -> Tensor:
        """Return the loss of the worst case, averaged over the batch, times the strength."""
        strength = self.strength
        if not strength:
            return logits.new_zeros(())
        x, y = batch.image.float(), batch.label
        with torch.autocast(x.device.type, enabled=False), eval_mode(net):
            low, high = box(x, self.eps * strength)
            return strength * F.cross_entropy(worst_logits(net, low, high, y), y)


class FreezeBatchNorm(pl.Callback):
    """Freeze batch norm's running statistics from a share of the run on.

    Bounds are computed with running statistics. While these change from step to step, a term such
    as `WorstCaseLoss` trains another network than the one that is used afterwards.

    Args:
        after: Share of the run's steps before that.

    Examples:
        >>> from dmn.train import FreezeBatchNorm, Trainer
        >>> trainer = Trainer(callbacks=[FreezeBatchNorm(0.1)], logger=False, accelerator="cpu")
    """

    def __init__(self, after: float = 0.1) -> None:
        self.after = after

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Put batch norm in eval mode, which validation may have ended."""
        if trainer.global_step >= self.after * trainer.estimated_stepping_batches:
            for module in cast(nn.Module, pl_module.net).modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
