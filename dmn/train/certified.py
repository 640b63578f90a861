"""A callback that logs how many validation images are classified for certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from dmn.data import as_batch
from dmn.errors import OptionError
from dmn.evaluate.certified import CertifiedAccuracy
from dmn.train.probe_images import is_due


class LogCertifiedAccuracy(pl.Callback):
    """Log in each epoch the share of validation images that is classified for certain.

    Logs `certified/acc@<eps>` for each eps: the share of images that are given the right class, as
    is every image that differs by at most eps in each pixel; see `CertifiedAccuracy` and
    `dmn.certify.bounds`. It costs about as much as ten validations for each eps, on a CPU.

    Args:
        eps: Largest changes of a pixel, of images in [0, 1]; none to log nothing.
        images: Validation images per process; None for all.
        every_n_epochs: Log only every n-th epoch and the last one; 0 for never.

    Raises:
        OptionError: if an eps is negative.
        UnsupportedError: when it is first logged, if an operation of the network has no rule.

    Examples:
        >>> from dmn.train import LogCertifiedAccuracy, Trainer
        >>> certified = LogCertifiedAccuracy(eps=[0.01, 0.05])
        >>> trainer = Trainer(callbacks=[certified], logger=False, accelerator="cpu")
    """

    def __init__(
        self, eps: Sequence[float] = (), images: int | None = None, every_n_epochs: int = 1
    ) -> None:
        if images is not None and images < 1:
            raise OptionError(f"certified.images is {images}; give at least 1, or none for all")
        self.images, self.every_n_epochs = images, every_n_epochs
        self.metrics = {f"certified/acc@{size:g}": CertifiedAccuracy(size) for size in eps}
        self._left: int | None = None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count."""
        self._left = self.images
        for metric in self.metrics.values():
            metric.reset()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        *others: Any,
    ) -> None:
        """Count the images that are certain, also in Lightning's check before the first epoch."""
        if not (trainer.sanity_checking or is_due(trainer, self.every_n_epochs)):
            return
        images = as_batch(batch).take(slice(self._left))
        if self._left is not None:
            self._left -= len(images.label)
        net: Any = getattr(pl_module, "net", pl_module)
        if len(images.label):
            for metric in self.metrics.values():
                metric.to(pl_module.device).update(net, images.image, images.label)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the shares, over all processes."""
        if is_due(trainer, self.every_n_epochs):
            for name, metric in self.metrics.items():
                pl_module.log(name, metric.compute(), sync_dist=True)
