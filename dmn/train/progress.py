"""What a run says while it goes, and when it ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dmn.io.text import plain
from dmn.tracking import wandb_folders
from dmn.train.probe_callbacks import ProbeCallback

SHOWN = ("train/loss", "train/acc", "val/loss", "val/acc")


class EpochLines(ProgressBar):
    """One plain line an epoch, for logs; only the first of several processes prints."""

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
        shown = [f"{name} {float(metrics[name]):.4f}" for name in SHOWN if name in metrics]
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        seconds = f"{time.perf_counter() - self._start:.1f} s"
        if self._enabled:
            print("  ".join([epoch, *shown, seconds]), flush=True)


def progress_bar() -> ProgressBar:
    """Return a moving bar for a terminal, plain lines for anything else."""
    return RichProgressBar() if sys.stdout.isatty() else EpochLines()


class RunSummary(pl.Callback):
    """Say at the end where everything lies, what watching cost, and how to go on."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the summary."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        self._print(trainer, folder, time.perf_counter() - self._start)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Say how to resume an interrupted run."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._print_how_to_resume(trainer)

    @rank_zero_only
    def _print_how_to_resume(self, trainer: pl.Trainer) -> None:
        last = [c.last_model_path for c in _checkpoints(trainer) if c.last_model_path]
        kept = f"the last whole epoch is {last[0]}; resume with --ckpt_path last" if last else ""
        print(
            f"\ninterrupted; {plain(kept) or 'no epoch was whole yet, there is nothing to resume'}"
        )

    @rank_zero_only
    def _print(self, trainer: pl.Trainer, folder: Path, seconds: float) -> None:
        watchers = [c for c in trainer.callbacks if isinstance(c, ProbeCallback)]  # type: ignore[attr-defined]
        watching = sum(watcher.seconds for watcher in watchers)
        lines = {
            "run": folder,
            "metrics": folder / "metrics.csv",
            "heatmaps": folder / "heatmaps",
            "checkpoints": folder / "checkpoints",
            **{f"best by {c.monitor}": _best(c) for c in _checkpoints(trainer)},
            "training took": f"{seconds:.0f} s, of which scoring and heatmaps {watching:.0f} s "
            f"({watching / seconds:.0%})",
        }
        if offline := wandb_folders(folder):
            lines["show it in Weights & Biases"] = " ".join(["wandb sync", *map(str, offline)])
        width = max(map(len, lines))
        print()
        for name, value in lines.items():
            print(plain(f"{name:<{width}}  {value}"))


def _checkpoints(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    found: list[Any] = trainer.checkpoint_callbacks
    return [callback for callback in found if isinstance(callback, ModelCheckpoint)]


def _best(callback: ModelCheckpoint) -> str:
    score = callback.best_model_score
    return callback.best_model_path + ("" if score is None else f" ({float(score):.4f})")
