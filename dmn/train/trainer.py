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

    Local checkpoints are written whole or not at all, unless a plugin writes them. The arguments
    are those of `pytorch_lightning.Trainer`.

    Examples:
        >>> from dmn.data import MNIST
        >>> from dmn.models import DifferenceOfMonotone, MonotoneMLP
        >>> from dmn.nn import assert_monotone
        >>> from dmn.train import ClassificationTask, ProjectNonnegative, Trainer
        >>> g, h = (MonotoneMLP(2 * 28 * 28, hidden=(8,)) for _ in range(2))
        >>> task = ClassificationTask(DifferenceOfMonotone(g, h, margin=0))
        >>> silent = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
        >>> trainer = Trainer(
        ...     callbacks=[ProjectNonnegative()], fast_dev_run=True, accelerator="cpu", **silent
        ... )
        >>> trainer.fit(task, MNIST())  # one batch; leave out fast_dev_run to train
        >>> assert_monotone(task.net)  # raises NotMonotoneError otherwise
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
            init_from: Whose weights to start from: a checkpoint, a state dict, or the name of a
                shipped network; on the command line also "best" or "last" of the newest run of this
                name.
            fresh_head: Do not load the head, e.g. for other classes of the same number. For another
                number of classes it is never loaded.
            ckpt_path: Resume an interrupted fine-tuning, e.g. "last", with all other options
                unchanged.
        """
        report = initialise(model.net, init_from, fresh_head)  # type: ignore[arg-type]
        log.info("%s: %s", init_from, report)
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
