"""Scores kept on disk, so that an interrupted comparison continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmn.errors import WriteError
from dmn.io.reading import regular
from dmn.io.writing import write_whole

log = logging.getLogger(__name__)

NAME_LENGTH = 24  # of a file's name, in hexadecimal digits of its key's hash


@dataclass(frozen=True)
class Cell:
    """The scores of one metric for one entry's maps in one setting.

    Attributes:
        values: One score per image, None where there is none.
        reasons: Why an image has no score, one per image; empty where there is one.
        seconds: Time it took.
        curves: The curve whose area each score is, for metrics that are areas.
    """

    values: list[float | None]
    reasons: list[str]
    seconds: float
    curves: list[list[float]] | None = None

    @property
    def n(self) -> int:
        """How many images have a score."""
        return sum(value is not None for value in self.values)

    @property
    def reason_summary(self) -> str:
        """Why images have no score, and how many."""
        counts = Counter(reason for reason in self.reasons if reason)
        return "; ".join(f"{count}x {reason}" for reason, count in counts.most_common())


class CellStore:
    """A folder with one file per cell, written whole or not at all.

    Args:
        folder: Created if it does not exist.
        retry: Forget cells without a single score.
    """

    def __init__(self, folder: Path, retry: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._retry = folder, retry

    def get(self, key: dict[str, Any]) -> Cell | None:
        """Return the cell of a key, if it was scored before and its file is not damaged."""
        path = self._path(key)
        if not os.path.isfile(path):
            return None
        try:
            cell = _cell_from_json(json.loads(regular(path).read_text(encoding="utf-8"))["cell"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s: damaged, and measured again: %r", path, error)
            return None
        return None if self._retry and not cell.n else cell

    def put(self, key: dict[str, Any], cell: Cell) -> None:
        """Store a cell; another process may be storing the same one.

        Raises:
            WriteError: if it cannot be written.
        """
        try:
            write_whole(self._path(key), json.dumps({"key": key, "cell": asdict(cell)}))
        except WriteError:
            if not os.path.isfile(self._path(key)):
                raise

    def _path(self, key: dict[str, Any]) -> Path:
        text = json.dumps(key, sort_keys=True).encode()
        return self._folder / f"{hashlib.sha256(text).hexdigest()[:NAME_LENGTH]}.json"


def _cell_from_json(fields: dict[str, Any]) -> Cell:
    cell = Cell(**fields)
    numbers = [value for value in cell.values if value is not None]
    if len(cell.values) != len(cell.reasons) or not all(map(math.isfinite, numbers)):
        raise ValueError("no scores with reasons")
    return cell


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return a hash of tensors, which identifies weights and images."""
    digest = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(str((values.dtype, tuple(values.shape))).encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:NAME_LENGTH]
