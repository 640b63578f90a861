"""Where a run is written: a CSV file and a Weights & Biases run, one row an epoch each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only

from dmn.io.options import require_below, require_names
from dmn.tracking.failures import Failures, log_and_continue
from dmn.tracking.rows import WholeWriter

FALLBACKS: dict[str, dict[str, str]] = {  # where Weights & Biases cannot be had as asked
    "starting a run": {},
    "starting a run offline": {"mode": "offline"},
    "doing without a run": {"mode": "disabled"},
}
UNSAFE = re.compile(r"[^\w /.,:()=+-]|(?<![^/])\.")  # in a key; dots only where a part begins
LAST_OF_EPOCH = "train/loss"  # Lightning logs an epoch's training metrics after all others


@dataclass
class Run:
    """Where a run is written, and under which name.

    Args:
        name: Of the experiment: its folder below `root`, and the group in Weights & Biases.
        root: Folder of all runs.
        online: Send the run to Weights & Biases while it trains; needs an account there.
        project: Project in Weights & Biases.

    Raises:
        OptionError: for a name that leads out of `root`, and for names that files cannot have.
    """

    name: str = "dmn"
    root: str = "runs"
    online: bool = False
    project: str = "dmn"

    def __post_init__(self) -> None:
        require_below("run.name", self.name)
        require_names("run.root", self.root)


class _OneRowAnEpoch(Logger):
    """Gather what an epoch logs, and write it at once.

    Lightning logs validation and training metrics in separate calls, which do not line up in a
    file and get separate steps in Weights & Biases. A full disk or a lost connection is not worth
    a training run: failures are told and counted.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.failures = Failures(type(self).__name__)
        self._row: dict[str, Any] = {}
        self._step: int | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Add to the epoch's row; write it when it is complete."""
        if self._row.get("epoch") != metrics.get("epoch") and "epoch" in self._row:
            self.flush()
        self._row.update(metrics)
        self._step = step
        if LAST_OF_EPOCH in metrics:
            self.flush()

    @rank_zero_only
    @log_and_continue
    def flush(self) -> None:
        """Write the row gathered so far."""
        row, self._row = self._row, {}
        if row:
            self.write_row(row, self._step)

    def write_row(self, row: dict[str, Any], step: int | None) -> None:
        """Write a row."""
        super().log_metrics(row, step)  # type: ignore[safe-super]

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close; what is left is written, unless the epoch was cut: a resumed run repeats it."""
        if status == "success":
            self.flush()
        with self.failures.suppress_and_count("closing"):
            super().finalize(status)
        self.failures.report()


class EpochCSVLogger(_OneRowAnEpoch, CSVLogger):
    """`metrics.csv`, one row an epoch; a resumed run goes on in the same file.

    The folder of a new run is made as soon as it is asked for, so that no other run gets it too.
    """

    @rank_zero_only
    def _claim(self, version: int) -> int:
        Path(self.root_dir).mkdir(parents=True, exist_ok=True)
        while True:
            try:
                Path(self.root_dir, f"version_{version}").mkdir()
            except FileExistsError:
                version += 1
            else:
                return version

    def _get_next_version(self) -> int:
        version = super()._get_next_version()
        claimed = self._claim(version)  # None in all processes but the first
        return version if claimed is None else claimed

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the file."""
        self._experiment: ExperimentWriter | None = self._experiment or WholeWriter(self.log_dir)
        return self._experiment

    @rank_zero_only
    @log_and_continue
    def save(self) -> None:
        """Write the file."""
        super().save()


class EpochWandbLogger(_OneRowAnEpoch, WandbLogger):
    """A Weights & Biases run with one log call an epoch, pictures included."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._wandb_init.pop("anonymous")  # no longer an option, and wandb warns of it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run: offline where its server cannot be reached, none where it cannot be kept."""
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
        """Log numbers and pictures in one call, Lightning's step being an ordinary value."""
        named = {wandb_key(name): value for name, value in row.items()}
        self.experiment.log({**named, "trainer/global_step": step})


@contextmanager
def tracking(run: Run, job: str = "train", resumed: Path | None = None) -> Iterator[list[Logger]]:
    """Open the loggers of a run, and close Weights & Biases afterwards whatever happens.

    Args:
        run: Where, and under which name.
        job: "train", "finetune", "validate" or "test"; the last two go to folders of their own.
        resumed: The checkpoint that the run continues. From `last.ckpt` of a run of this name it
            goes on in that run's folder and, online, as the same run in Weights & Biases.

    Yields:
        The CSV logger, whose `log_dir` is the run's folder, and the Weights & Biases logger.
    """
    name = run.name if job in ("train", "finetune") else f"{run.name}/{job}"
    same = _folder_to_continue(resumed, Path(run.root, name)) if resumed else None
    rows = EpochCSVLogger(run.root, name, version=same.name if same else None)
    _ = rows.experiment  # makes the run's folder
    folder = Path(rows.log_dir)
    known = wandb_id(same) if same and run.online else None
    with wandb_logger(run, job, folder, f"{name} {folder.name}", known) as wandb:
        yield [rows, wandb]


@contextmanager
def wandb_logger(
    run: Run, job: str, folder: Path, title: str, known: str | None = None
) -> Iterator[EpochWandbLogger]:
    """Open a Weights & Biases run, and close it afterwards whatever happens.

    Args:
        run: Its project, its group, and whether it is sent.
        job: Its kind, e.g. "train" or "compare".
        folder: Where it is kept.
        title: What it is called.
        known: Id of the run to go on with.
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
        settings={"quiet": True},  # RunSummary says where it lies
        id=known,
    )
    try:
        yield wandb
    finally:
        with wandb.failures.suppress_and_count("closing the run"):
            _finish()
        wandb.failures.report()
        if mode is None:
            os.environ.pop("WANDB_MODE", None)  # the offline logger sets it for the whole process
        else:
            os.environ["WANDB_MODE"] = mode


def log_config(to: Sequence[Logger], config: dict[str, Any]) -> None:
    """Write the whole configuration to Weights & Biases, once."""
    for logger in to:
        if isinstance(logger, EpochWandbLogger):
            logger.log_hyperparams(config)


def wandb_key(name: str) -> str:
    """Return the key of a value in Weights & Biases: its name, what might be more than text as %XX.

    Names come from configurations, and the keys of pictures become parts of paths.
    """
    return UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name)


def wandb_folders(folder: Path) -> list[Path]:
    """Return the Weights & Biases folders within a run's, oldest first; one for each resumption."""
    return sorted(folder.glob("wandb/*run-*"))


def wandb_id(folder: Path) -> str | None:
    """Return the Weights & Biases id of the run in a folder, if there is one."""
    folders = wandb_folders(folder)
    return folders[-1].name.rsplit("-", 1)[1] if folders else None


def _folder_to_continue(checkpoint: Path, runs: Path) -> Path | None:
    """Return the folder of the run whose last checkpoint this is, if it is one of these runs."""
    folder = checkpoint.parent.parent
    is_of_these = checkpoint.name == "last.ckpt" and folder.parent.resolve() == runs.resolve()
    return folder if is_of_these and not _leads_out(folder) else None


def _leads_out(folder: Path) -> bool:
    """Return whether a link in a run's folder would let it be written elsewhere."""
    return any(each.resolve().parent != folder.resolve() for each in folder.glob("*"))


@rank_zero_only
def _finish() -> None:
    import wandb

    wandb.finish()
