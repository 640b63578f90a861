"""Weights & Biases: all code that uses it, with fallbacks if it is not available."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only

from dmn.tracking.epoch import EpochLogger
from dmn.tracking.failures import log_and_continue
from dmn.tracking.run import Run

FALLBACKS: dict[str, dict[str, str]] = {  # if Weights & Biases does not work as asked for
    "starting a run": {},
    "starting a run offline": {"mode": "offline"},
    "doing without a run": {"mode": "disabled"},
}
UNSAFE = re.compile(r"[^\w /.,:()=+-]|(?<![^/])\.")  # in a key; dots only at the start of a part


class EpochWandbLogger(EpochLogger, WandbLogger):
    """A logger for Weights & Biases with one log call per epoch, including pictures.

    If the server cannot be reached, the run is stored offline. If it cannot be stored, it is
    disabled. The arguments are those of Lightning's `WandbLogger`.

    Examples:
        >>> from dmn.tracking import EpochWandbLogger
        >>> from dmn.train import Trainer
        >>> logger = EpochWandbLogger(project="digits")  # the run starts with the training
        >>> trainer = Trainer(logger=logger, accelerator="cpu")
        >>> logger.name
        'digits'
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._wandb_init.pop("anonymous")  # no longer an option; wandb warns about it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run: offline if the server cannot be reached, disabled if it cannot be stored."""
        for attempt, mode in FALLBACKS.items():
            if self._experiment is None:
                with self.failures.suppress_and_count(attempt):
                    self._wandb_init |= mode
                    self._experiment = super().experiment
        return self._experiment

    @rank_zero_only
    @log_and_continue
    def log_hyperparams(self, params: Any) -> None:
        """Write a configuration."""
        super().log_hyperparams(params)

    @rank_zero_only
    @log_and_continue
    def log_image(self, key: str, images: list[Any], step: int | None = None, **_: Any) -> None:
        """Add pictures (paths or arrays) to the epoch's row."""
        import wandb

        self._row[key] = [wandb.Image(image) for image in images]

    @rank_zero_only
    @log_and_continue
    def log_bars(self, key: str, values: dict[str, float]) -> None:
        """Add a bar chart of labelled values to the epoch's row."""
        import wandb

        table = wandb.Table(
            columns=["label", "value"], data=[list(pair) for pair in values.items()]
        )
        self._row[key] = wandb.plot.bar(table, "label", "value", title=key)

    def write_row(self, row: dict[str, Any], step: int | None) -> None:
        """Log numbers and pictures in one call, with Lightning's step as an ordinary value."""
        named = {wandb_key(name): value for name, value in row.items()}
        self.experiment.log({**named, "trainer/global_step": step})


@contextmanager
def wandb_logger(
    run: Run, job: str, folder: Path, title: str, resume_id: str | None = None
) -> Iterator[EpochWandbLogger]:
    """Open a Weights & Biases run, and always close it afterwards.

    Args:
        run: Project and group, and whether to send the run.
        job: Kind of job, e.g. "train" or "compare".
        folder: Where to store it.
        title: Name of the run.
        resume_id: Id of a run to continue; None for a new one.

    Yields:
        The logger, to be given to a trainer.
    """
    mode = os.environ.get("WANDB_MODE")
    wandb = EpochWandbLogger(
        name=title,
        save_dir=folder.absolute(),
        project=run.project,
        group=run.name,
        job_type=job,
        offline=not run.online,
        log_model=False,
        settings={"quiet": True},  # RunSummary says where it is
        id=resume_id,
    )
    try:
        yield wandb
    finally:
        with wandb.failures.suppress_and_count("closing the run"):
            _finish_run()
        wandb.failures.report()
        if mode is None:
            os.environ.pop("WANDB_MODE", None)  # the offline logger sets it for the whole process
        else:
            os.environ["WANDB_MODE"] = mode


def log_config(loggers: Sequence[Logger], config: dict[str, Any]) -> None:
    """Write a whole configuration to Weights & Biases, once.

    Args:
        loggers: Those of a run; only those of Weights & Biases take part.
        config: The configuration, nested as it is.
    """
    for logger in loggers:
        if isinstance(logger, EpochWandbLogger):
            logger.log_hyperparams(config)


def wandb_key(name: str) -> str:
    """Return the key of a value in Weights & Biases: its name with special characters as %XX.

    Names come from configurations, and the keys of pictures become parts of paths.
    """
    return UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name)


def wandb_folders(folder: Path) -> list[Path]:
    """Return the Weights & Biases folders in a run's folder, oldest first; one per resumption."""
    return sorted(folder.glob("wandb/*run-*"))


def wandb_id(folder: Path) -> str | None:
    """Return the Weights & Biases id of the run in a folder, if there is one."""
    folders = wandb_folders(folder)
    return folders[-1].name.rsplit("-", 1)[1] if folders else None


@rank_zero_only
def _finish_run() -> None:
    import wandb

    wandb.finish()
