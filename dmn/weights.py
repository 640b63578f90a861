"""Files of weights, read without executing code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from torch import Tensor

from dmn.errors import DmnError

PREFIX = "net."  # of the network within a ClassificationTask
SHOWN = 8


class CheckpointError(DmnError, ValueError):
    """A checkpoint that cannot be read, or whose weights do not fit; names the file and keys."""


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Read the network's weights from a file, without executing code.

    Args:
        checkpoint: A Lightning checkpoint, or a state dict in `.pt`, `.pth` or `.safetensors`.

    Raises:
        CheckpointError: if it is not there, or holds anything but weights.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not a file of weights: {error}") from error
    if "state_dict" in state:
        state = state["state_dict"]
        state = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds other things than weights: {shorten(state)}")
    weights: dict[str, Tensor] = state
    return weights


def shorten(keys: Iterable[str]) -> str:
    """Name the first few of many keys, and how many there are besides."""
    names = list(keys)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
