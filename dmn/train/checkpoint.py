"""Checkpoints that a crash cannot take away: one after every epoch, each whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dmn.weights import CheckpointError, read_file
from dmn.writing import write_whole


class EpochCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose `last.ckpt` is written after every epoch.

    Lightning's own writes it only with a new best one, so that a run which is cut goes on from an
    epoch that may be long past.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best checkpoint if this epoch is it, and the last one in any case."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class CheckpointFiles(TorchCheckpointIO):
    """Local checkpoints, written whole or not at all, and read without executing code.

    Lightning's own writes to the system's temporary folder first, and copies from there: a full
    disk, or whoever kills it meanwhile, leaves half a file in place of the last good one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint; addresses such as s3://... are left to Lightning.

        Raises:
            WriteError: names the file; what it held before is kept.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(path, content.getvalue())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint to go on from; addresses such as s3://... are left to Lightning.

        Raises:
            CheckpointError: names the file, if it is none of a training's, or asks for code.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, *args, **options)
        held, _ = read_file(Path(path))
        if not (isinstance(held, dict) and "pytorch-lightning_version" in held):
            raise CheckpointError(
                f"{path}: holds no state of a training to go on from; "
                "start from its weights by `dmn finetune --init_from`"
            )
        return held
