"""One row per epoch, for any logger."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from dmn.tracking.failures import Failures, log_and_continue

LAST_OF_EPOCH = "train/loss"  # Lightning logs an epoch's training metrics after all others


class EpochLogger(Logger):
    """A logger that collects the values of an epoch, and writes them at once.

    Base class to put before a logger of Lightning.

    Lightning logs validation and training metrics in separate calls, which become separate rows in
    a file and separate steps in Weights & Biases. A full disk or a lost connection must not stop a
    training: failures are logged and counted.
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
        """Write the row collected so far."""
        row, self._row = self._row, {}
        if row:
            self.write_row(row, self._step)

    def write_row(self, row: dict[str, Any], step: int | None) -> None:
        """Write a row."""
        super().log_metrics(row, step)  # type: ignore[safe-super]

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last row and close; an interrupted epoch, which is repeated, is not written."""
        if status == "success":
            self.flush()
        with self.failures.suppress_and_count("closing"):
            super().finalize(status)
        self.failures.report()
