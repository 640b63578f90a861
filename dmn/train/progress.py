"""What a run prints during training and at its end."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from dmn.io.text import plain
from dmn.io.versions import package_versions
from dmn.io.writing import write_whole
from dmn.tracking import Failures, wandb_folders
from dmn.train.checkpoint import model_checkpoints
from dmn.train.probe_callbacks import ProbeCallback

SUMMARY = "summary.json"  # in a run's folder
PACKAGES = ("dmn", "torch", "pytorch-lightning", "quantus")
LINE_METRICS = ("train/loss", "train/acc", "val/loss", "val/acc")


class EpochLines(ProgressBar):
    """Print one plain line per epoch instead of a progress bar, for logs.

    With several processes only the first one prints.

    Examples:
        >>> from dmn.train import EpochLines, Trainer
        >>> trainer = Trainer(callbacks=[EpochLines()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    def enable(self) -> None:
        """Print."""
        self._enabled = True

    def disable(self) -> None:
        """Print nothing."""
        self._enabled = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        metrics = trainer.callback_metrics
        values = [f"{name} {float(metrics[name]):.4f}" for name in LINE_METRICS if name in metrics]
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        seconds = f"{time.perf_counter() - self._start:.1f} s"
        if self._enabled:
            print("  ".join([epoch, *values, seconds]), flush=True)


def progress_bar() -> ProgressBar:
    """Return a progress bar for a terminal, and plain lines otherwise."""
    return RichProgressBar() if sys.stdout.isatty() else EpochLines()


class RunSummary(pl.Callback):
    """Print at the end where all files are, and how long probe callbacks took.

    `summary.json` in the folder of a training, validation or test has the same as data.

    Examples:
        >>> from dmn.train import RunSummary, Trainer
        >>> trainer = Trainer(callbacks=[RunSummary()], logger=False, accelerator="cpu")
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the clock: what comes before is not training."""
        self._start = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write and print the summary."""
        self._write_summary(trainer, printed=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the summary, unless the validation is part of a training."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write_summary(trainer, printed=False)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the summary."""
        self._write_summary(trainer, printed=False)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Print how to resume an interrupted run."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._print_how_to_resume(trainer)

    @rank_zero_only
    def _print_how_to_resume(self, trainer: pl.Trainer) -> None:
        last = [c.last_model_path for c in model_checkpoints(trainer) if c.last_model_path]
        hint = f"the last whole epoch is {last[0]}; resume with --ckpt_path last" if last else ""
        print(
            f"\ninterrupted; {plain(hint) or 'no epoch was whole yet, there is nothing to resume'}"
        )

    def _write_summary(self, trainer: pl.Trainer, printed: bool) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        summary = summarise_run(trainer, folder, time.perf_counter() - self._start)
        if not trainer.is_global_zero:  # metrics may be gathered from all processes
            return
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        with Failures("summary").suppress_and_count(f"writing {SUMMARY}"):
            write_whole(folder / SUMMARY, text)
        if printed:
            _print_summary(summary)


def summarise_run(trainer: pl.Trainer, folder: Path, seconds: float) -> dict[str, Any]:
    """Return what a run was, where its files are, and its results.

    Args:
        trainer: Trainer that has just ended a training, a validation or a test.
        folder: Folder of the run.
        seconds: Duration of the run.

    Returns:
        Values that JSON supports. `best` has a checkpoint and its score for each monitored metric;
        metrics that are not finite are None.
    """
    watchers = [c for c in trainer.callbacks if isinstance(c, ProbeCallback)]  # type: ignore[attr-defined]
    best = {c.monitor: c for c in model_checkpoints(trainer) if c.best_model_path}
    return {
        "job": str(trainer.state.fn.value) if trainer.state.fn else "",
        "command": shlex.join(
            [Path(sys.argv[0]).name.replace("__main__.py", "dmn"), *sys.argv[1:]]
        ),
        "run": str(folder),
        "metrics_file": str(folder / "metrics.csv"),
        "heatmaps": str(folder / "heatmaps"),
        "checkpoints": str(folder / "checkpoints"),
        "best": {
            str(monitor): {
                "checkpoint": c.best_model_path,
                "score": _finite_number(c.best_model_score),
            }
            for monitor, c in best.items()
        },
        "metrics": {
            name: _finite_number(value) for name, value in trainer.callback_metrics.items()
        },
        "seconds": {"total": seconds, "watching": sum(watcher.seconds for watcher in watchers)},
        "wandb": [str(path) for path in wandb_folders(folder)],
        "versions": package_versions(PACKAGES),
    }


def _print_summary(summary: dict[str, Any]) -> None:
    total, watching = summary["seconds"]["total"], summary["seconds"]["watching"]
    lines = {
        "run": summary["run"],
        "metrics": summary["metrics_file"],
        "heatmaps": summary["heatmaps"],
        "checkpoints": summary["checkpoints"],
        **{
            f"best by {monitor}": _best_as_text(**best) for monitor, best in summary["best"].items()
        },
        "training took": f"{total:.0f} s, of which scoring and heatmaps {watching:.0f} s "
        f"({watching / total:.0%})",
    }
    if offline := summary["wandb"]:
        lines["show it in Weights & Biases"] = " ".join(["wandb sync", *offline])
    width = max(map(len, lines))
    print()
    for name, value in lines.items():
        print(plain(f"{name:<{width}}  {value}"))


def _best_as_text(checkpoint: str, score: float | None) -> str:
    return checkpoint + ("" if score is None else f" ({score:.4f})")


def _finite_number(value: Tensor | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
