"""Stop a training with NaN or infinite values before it writes a checkpoint."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from dmn.data import as_batch
from dmn.errors import RunError
from dmn.io.weights import truncate
from dmn.train.checkpoint import model_checkpoints


class StopAtNonFinite(pl.Callback):
    """Stop a training when a loss or, at the end of an epoch, a weight is NaN or infinite.

    The batch that caused it changes no weight, and the epoch writes no checkpoint. With several
    processes, all of them stop.

    Raises:
        RunError: names the batch, says whether its images are the cause, and names the last good
            checkpoint.

    Examples:
        >>> from dmn.train import StopAtNonFinite, Trainer
        >>> trainer = Trainer(callbacks=[StopAtNonFinite()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._index = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch for the error message."""
        self._batch, self._index = batch, batch_idx

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Check the loss."""
        value = loss.detach()
        finite = bool(torch.isfinite(value).all())
        if trainer.strategy.reduce_boolean_decision(finite):
            return
        fault = "another process's loss is not finite" if finite else f"the loss is {float(value)}"
        bad_pixels = int((~torch.isfinite(as_batch(self._batch).image)).sum())
        cause = (
            f"{bad_pixels} of its pixels are not finite: look at the data"
            if bad_pixels
            else "its images are finite: a lower learning rate may help"
        )
        epoch = trainer.current_epoch
        raise RunError(
            f"{fault} in batch {self._index} of epoch {epoch}; {cause}. {_last_checkpoint(trainer)}"
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights before checkpoints are written."""
        state = pl_module.state_dict()
        bad_keys = [key for key, value in state.items() if not torch.isfinite(value).all()]
        if bad_keys:
            raise RunError(
                f"after epoch {trainer.current_epoch} there are NaN or infinite numbers in "
                f"{truncate(bad_keys)}; a lower learning rate may help. {_last_checkpoint(trainer)}"
            )


def _last_checkpoint(trainer: pl.Trainer) -> str:
    paths = [callback.last_model_path for callback in model_checkpoints(trainer)]
    path = next(filter(None, paths), None)
    if path is None:
        return "There is no checkpoint yet"
    return f"The last good checkpoint is {path}; start from it by `dmn finetune --init_from {path}`"
