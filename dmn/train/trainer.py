"""Lightning's Trainer, which also fine-tunes."""

from __future__ import annotations

import logging

import pytorch_lightning as pl

from dmn.train.initialise import initialise

log = logging.getLogger(__name__)


class Trainer(pl.Trainer):
    """Lightning's Trainer, with `finetune` beside `fit`, `validate` and `test`."""

    def finetune(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        *,
        init_from: str,
    ) -> None:
        """Train from the weights of a checkpoint, with a new optimizer and schedule.

        Args:
            model: The task to train.
            datamodule: The data.
            init_from: Checkpoint or state dict whose weights to start from; "best" or "last" of
                the newest run of this name.
        """
        log.info("%s: %s", init_from, initialise(model.net, init_from))  # type: ignore[arg-type]
        self.fit(model, datamodule=datamodule)
