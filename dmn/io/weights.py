"""Files of weights, read without executing code, and judged before they are believed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dmn.errors import CheckpointError
from dmn.io.pickles import check_saved
from dmn.io.text import plain

PREFIX = "net."  # of the network within a ClassificationTask
SHOWN = 8
LENGTH = 100  # of a name that is shown
SPARE = 2**30  # bytes; what networks build only to replace it, VGG's first classifier above all
SPARE_TENSORS = 64
NUMBERS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Read the network's weights from a file, without executing code.

    Args:
        checkpoint: A Lightning checkpoint, or a state dict in `.pt`, `.pth` or `.safetensors`.

    Raises:
        CheckpointError: if it is not there, or holds anything but finite weights.
    """
    path = Path(checkpoint)
    held, _ = read_file(path)
    if not (isinstance(held, dict) and "state_dict" in held):
        return validate_state_dict(held, path)
    state = validate_state_dict(held["state_dict"], path)
    return {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}


def read_file(path: Path) -> tuple[Any, dict[str, str]]:
    """Read what a file of weights holds, without executing code; see `validate_state_dict`.

    Args:
        path: A `.safetensors` file, or one that torch has saved.

    Returns:
        What it holds, and the metadata of a `.safetensors` file.

    Raises:
        CheckpointError: if it is not there, or no such file.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of what is refused
            return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except Exception as error:  # a damaged pickle raises anything, from KeyError to struct.error
        told = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, UnpicklingError):  # torch then says how to execute its code
            told = "torch does not load it as weights only"
        raise CheckpointError(f"{path}: not a file of weights: {told}") from error


def validate_state_dict(held: Any, path: Path) -> dict[str, Tensor]:
    """Return a state dict as plain tensors, if it is one of finite numbers that its file can hold.

    Args:
        held: Of `read_file`, or part of it.
        path: The file.

    Raises:
        CheckpointError: if it is none; names the file and the first keys.
    """
    if not isinstance(held, dict):
        raise CheckpointError(f"{path}: not a file of weights: holds a {type(held).__name__}")
    if other := [_told(item) for item in held.items() if not _is_weight(*item)]:
        raise CheckpointError(
            f"{path}: holds other things than weights: {truncate(other)}; keep a state dict only"
        )
    weights = {key: Tensor.detach(value) for key, value in held.items()}
    # views of the same numbers are judged once, and all others together fit into the file
    distinct = {(v.data_ptr(), v.dtype, v.shape, v.stride()): key for key, v in weights.items()}
    claimed = sum(weights[key].nbytes for key in distinct.values())
    if claimed > path.stat().st_size:
        raise CheckpointError(f"{path}: not a file of weights: {claimed} bytes are not in it")
    if wrong := [key for key in distinct.values() if not weights[key].isfinite().all()]:
        raise CheckpointError(f"{path}: not finite: {truncate(wrong)}; it is of a failed training?")
    return weights


def state_dict_mismatches(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Tell which weights do not fit a network, by what is wrong with them; empty if all do.

    Args:
        own: State of the network.
        given: State that is to be loaded.
    """
    shared = [key for key in own if key in given]
    shapes = {key: (tuple(given[key].shape), tuple(own[key].shape)) for key in shared}
    kinds = {key: (given[key].is_floating_point(), own[key].is_floating_point()) for key in shared}
    faults = {
        "missing": [key for key in own if key not in given],
        "unexpected": [key for key in given if key not in own],
        "misshapen": [f"{key} {it} for {due}" for key, (it, due) in shapes.items() if it != due],
        "of another type": [
            f"{key} {given[key].dtype} for {own[key].dtype}"
            for key, (it, due) in kinds.items()
            if it != due
        ],
    }
    return {name: keys for name, keys in faults.items() if keys}


def format_mismatches(faults: Mapping[str, list[str]]) -> str:
    """Tell what `state_dict_mismatches` has found in one line."""
    return "; ".join(f"{len(keys)} {name}: {truncate(keys)}" for name, keys in faults.items())


@contextmanager
def limit_allocation(path: Path, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse to build networks far larger than the weights that they are to be filled with.

    Else a small file that tells of a huge network would take all memory.

    Args:
        path: The file of weights.
        weights: What it holds.

    Raises:
        CheckpointError: while a network is built, before its weights take memory.
    """
    bytes_left = SPARE + 2 * path.stat().st_size
    tensors_left = SPARE_TENSORS + 2 * len(weights)

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal bytes_left, tensors_left
        bytes_left -= 0 if value is None else value.nbytes
        tensors_left -= 1
        if min(bytes_left, tensors_left) < 0:
            raise CheckpointError(f"{path}: is told to be of a network far larger than it is")

    hook = register_module_parameter_registration_hook(count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers without weights, which will not fit
            yield
    finally:
        hook.remove()


def truncate(keys: Iterable[str]) -> str:
    """Name the first few of many keys, and how many there are besides."""
    names = list(keys)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(_shown(name) for name in names[:SHOWN]) + more


def _shown(name: str) -> str:
    cut = name if len(name) <= LENGTH else f"{name[:LENGTH]}..."
    return plain(cut)


def _is_weight(key: Any, value: Any) -> bool:
    return (
        isinstance(key, str)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in NUMBERS
    )


def _told(item: tuple[Any, Any]) -> str:
    key, value = item
    name = key if isinstance(key, str) else f"a key of type {type(key).__name__}"
    return f"{name} ({value.dtype if isinstance(value, Tensor) else type(value).__name__})"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_torch(path: Path) -> tuple[Any, dict[str, str]]:
    # mapped, records of a wrong length end with the file, in every version of torch
    zipped = check_saved(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped), {}
