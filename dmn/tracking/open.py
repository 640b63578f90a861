"""Open the loggers of a run, in a folder of its own or in the one that it continues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.loggers import Logger

from dmn.tracking.csv import EpochCSVLogger
from dmn.tracking.run import Run
from dmn.tracking.wandb import wandb_id, wandb_logger


@contextmanager
def tracking(run: Run, job: str = "train", resumed: Path | None = None) -> Iterator[list[Logger]]:
    """Open the loggers of a run, and always close Weights & Biases afterwards.

    Args:
        run: Where to write, and under which name.
        job: "train", "finetune", "validate" or "test"; the last two have folders of their own.
        resumed: The checkpoint that the run continues. From `last.ckpt` of a run of this name it
            continues in that run's folder and, online, as the same run in Weights & Biases.

    Yields:
        The CSV logger, whose `log_dir` is the run's folder, and the Weights & Biases logger.
    """
    name = run.name if job in ("train", "finetune") else f"{run.name}/{job}"
    continued = _folder_to_continue(resumed, Path(run.root, name)) if resumed else None
    rows = EpochCSVLogger(run.root, name, version=continued.name if continued else None)
    _ = rows.experiment  # creates the run's folder
    folder = Path(rows.log_dir)
    resumed_id = wandb_id(continued) if continued and run.online else None
    with wandb_logger(run, job, folder, f"{name} {folder.name}", resumed_id) as wandb:
        yield [rows, wandb]


def _folder_to_continue(checkpoint: Path, runs: Path) -> Path | None:
    """Return the folder of the run with this last checkpoint, if it is one of these runs."""
    folder = checkpoint.parent.parent
    is_last_of_run = checkpoint.name == "last.ckpt" and folder.parent.resolve() == runs.resolve()
    return folder if is_last_of_run and not _has_outside_link(folder) else None


def _has_outside_link(folder: Path) -> bool:
    """Return whether a link in a run's folder leads out of it."""
    return any(path.resolve().parent != folder.resolve() for path in folder.glob("*"))
