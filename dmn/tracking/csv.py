"""A run's `metrics.csv`: written whole, one row per epoch, and read when a run is resumed."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import math
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only

from dmn.io.writing import write_whole
from dmn.tracking.epoch import EpochLogger
from dmn.tracking.failures import log_and_continue

log = logging.getLogger(__name__)


class EpochCSVLogger(EpochLogger, CSVLogger):
    """A logger that writes `metrics.csv` with one row per epoch; a resumed run continues the file.

    The folder of a new run is created at once, so no other run gets the same. The arguments are
    those of Lightning's `CSVLogger`.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from dmn.tracking import EpochCSVLogger
        >>> with TemporaryDirectory() as runs:
        ...     logger = EpochCSVLogger(runs, "digits")
        ...     logger.log_metrics({"epoch": 0, "val/acc": 0.9})
        ...     logger.log_metrics({"epoch": 0, "train/loss": 0.3})  # completes the row
        ...     logger.save()
        ...     print(Path(logger.log_dir, "metrics.csv").read_text(encoding="utf-8"))
        epoch,step,train/loss,val/acc
        0,0,0.3,0.9
    """

    @rank_zero_only
    def _create_version(self, version: int) -> int:
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
        created = self._create_version(version)  # None in all processes except the first
        return version if created is None else created

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """Writer of the file."""
        self._experiment: ExperimentWriter | None = self._experiment or WholeWriter(self.log_dir)
        return self._experiment

    @rank_zero_only
    @log_and_continue
    def save(self) -> None:
        """Write the file."""
        super().save()


class WholeWriter(ExperimentWriter):
    """Write all of `metrics.csv` at once, after the rows that exist already.

    An epoch that a resumed run repeats replaces its row and all rows after it. A damaged file is
    kept beside the new one, which continues with its complete rows.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._rows: list[dict[str, Any]] = []
        path = self.metrics_file_path
        if os.path.isfile(path):
            with open(path, newline="", encoding="utf-8", errors="replace") as file:
                self._rows, damaged = _complete_rows(file.read())
            if damaged:
                aside = _unused_path(f"{path}.damaged_")
                os.replace(path, aside)
                log.warning(
                    "%s: damaged; going on with the rows that are whole, %d, and keeping it as %s",
                    *(path, len(self._rows), aside),
                )

    def save(self) -> None:
        """Write the file, whole or not at all; rows that failed are written next time."""
        if not self.metrics:
            return
        for row in self.metrics:
            earlier = [old for old in self._rows if not _epoch(old) >= _epoch(row)]
            self._rows = [*earlier, row]
        self.metrics = []
        text = io.StringIO()
        keys = sorted({key for row in self._rows for key in row if key})
        writer = csv.DictWriter(text, keys, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._rows)
        write_whole(self.metrics_file_path, text.getvalue())

    def _check_log_dir_exists(self) -> None:
        """Keep existing files."""


def _complete_rows(text: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the complete rows of a file of metrics, and whether it was damaged."""
    lines = text.splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n")]
    try:
        rows = [row for row in csv.DictReader(complete) if not {None} & {*row, *row.values()}]
    except csv.Error:
        rows = []
    rows = [row for row in rows if not math.isnan(_epoch(row))]
    return rows, not rows or len(rows) < len(lines) - 1


def _unused_path(prefix: str) -> str:
    """Return a path that does not exist, by adding a number."""
    candidates = (f"{prefix}{number}" for number in itertools.count(1))
    return next(path for path in candidates if not os.path.lexists(path))


def _epoch(row: dict[str, Any]) -> float:
    """Return a row's epoch, or NaN if it has none."""
    try:
        return float(row["epoch"])
    except (KeyError, TypeError, ValueError):
        return math.nan
