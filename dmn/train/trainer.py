"""Lightning's Trainer with fine-tuning."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dmn.train.checkpoint import CheckpointFiles
from dmn.train.initialise import initialise

log = logging.getLogger(__name__)


class Trainer(pl.Trainer):
    """Lightning's Trainer, with `finetune` beside `fit`, `validate` and `test`.

    Local checkpoints are written whole or not at all, unless a plugin writes them.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = CheckpointFiles()

    def finetune(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        *,
        init_from: str,
        fresh_head: bool = False,
        ckpt_path: str | None = None,
    ) -> None:
        """Train from the weights of a checkpoint, with a new optimizer and schedule.

        Args:
            model: The task to train.
            datamodule: The data.
            init_from: Checkpoint or state dict whose weights to start from; "best" or "last" of
                the newest run of this name; or the name of a shipped network.
            fresh_head: Initialise the head anew instead of loading the checkpoint's, as for other
                classes of the same number; for another number of classes this is always done.
            ckpt_path: Resume an interrupted fine-tuning, e.g. "last", with all other options
                unchanged.
        """
        report = initialise(model.net, init_from, fresh_head)  # type: ignore[arg-type]
        log.info("%s: %s", init_from, report)
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
