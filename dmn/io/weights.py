"""Files of weights, read without executing code, and validated before use."""

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
from dmn.io.pickles import REMEDY, check_saved
from dmn.io.text import plain
from dmn.io.wrappers import unwrap

SHOWN = 8
LENGTH = 100  # characters of a name that are shown
SPARE = 2**30  # bytes that a network may build and then replace, such as VGG's first classifier
SPARE_TENSORS = 64
NUMBERS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Read the weights of a file, without executing code; see `read_state_dict`."""
    return read_state_dict(checkpoint)[0]


def read_state_dict(checkpoint: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the state dict of a file, by any project, without executing code.

    Its keys are those of the file; `drop_prefix` makes them a network's.

    Args:
        checkpoint: A `.safetensors` file, or one that torch has saved (`.pt`, `.pth`, `.ckpt`,
            `.pth.tar`): a state dict, bare or under one of `WRAPPERS`.

    Returns:
        The state dict, and the metadata of a `.safetensors` file.

    Raises:
        CheckpointError: if it does not exist, or holds anything but finite weights.
    """
    path = Path(checkpoint)
    content, metadata = read_file(path)
    return validate_state_dict(unwrap(content, path), path), metadata


def read_file(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a file of weights without executing code; see `validate_state_dict`.

    Args:
        path: A `.safetensors` file, or one that torch has saved.

    Returns:
        Its content, and the metadata of a `.safetensors` file.

    Raises:
        CheckpointError: if it does not exist, or is not such a file.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about files that are refused
            return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except Exception as error:  # a damaged pickle raises anything, from KeyError to struct.error
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, UnpicklingError):  # torch then says how to execute its code
            reason = f"torch does not load it as weights only; {REMEDY}"
        raise CheckpointError(f"{path}: not a file of weights: {reason}") from error


def validate_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return a state dict as plain tensors; check that it is finite and no larger than its file.

    Args:
        content: Returned by `read_file`, or part of it.
        path: The file.

    Raises:
        CheckpointError: if it is not valid; names the file and the first keys.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a file of weights: holds a {type(content).__name__}")
    if other := [_describe_item(item) for item in content.items() if not _is_weight(*item)]:
        raise CheckpointError(
            f"{path}: holds other things than weights: {truncate(other)}; keep a state dict only"
        )
    weights = {key: Tensor.detach(value) for key, value in content.items()}
    # views of the same numbers are counted once; the others together must fit into the file
    distinct = {(v.data_ptr(), v.dtype, v.shape, v.stride()): key for key, v in weights.items()}
    claimed = sum(weights[key].nbytes for key in distinct.values())
    if claimed > path.stat().st_size:
        raise CheckpointError(f"{path}: not a file of weights: {claimed} bytes are not in it")
    if wrong := [key for key in distinct.values() if not weights[key].isfinite().all()]:
        raise CheckpointError(f"{path}: not finite: {truncate(wrong)}; it is of a failed training?")
    return weights


def state_dict_mismatches(
    expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Return the weights that do not fit a network, by what is wrong; empty if all fit.

    Args:
        expected: State dict of the network.
        actual: State dict that is to be loaded.
    """
    shared = [key for key in expected if key in actual]
    shapes = {key: (tuple(actual[key].shape), tuple(expected[key].shape)) for key in shared}
    is_float = {
        key: (actual[key].is_floating_point(), expected[key].is_floating_point()) for key in shared
    }
    faults = {
        "missing": [key for key in expected if key not in actual],
        "unexpected": [key for key in actual if key not in expected],
        "misshapen": [
            f"{key} {got} for {want}" for key, (got, want) in shapes.items() if got != want
        ],
        "of another type": [
            f"{key} {actual[key].dtype} for {expected[key].dtype}"
            for key, (got, want) in is_float.items()
            if got != want
        ],
    }
    return {name: keys for name, keys in faults.items() if keys}


def format_mismatches(faults: Mapping[str, list[str]]) -> str:
    """Return what `state_dict_mismatches` has found as one line."""
    return "; ".join(f"{len(keys)} {name}: {truncate(keys)}" for name, keys in faults.items())


@contextmanager
def limit_allocation(path: Path, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse to build networks far larger than the weights that will be loaded.

    Otherwise a small file that describes a huge network could use up all memory.

    Args:
        path: The file of weights.
        weights: Its content.

    Raises:
        CheckpointError: while a network is built, before its weights are allocated.
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
            warnings.simplefilter("ignore")  # about layers without weights, which will not fit
            yield
    finally:
        hook.remove()


def truncate(keys: Iterable[str]) -> str:
    """Return the first few keys as text, and how many more there are."""
    names = list(keys)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(_truncate_name(name) for name in names[:SHOWN]) + more


def _truncate_name(name: str) -> str:
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


def _describe_item(item: tuple[Any, Any]) -> str:
    key, value = item
    name = key if isinstance(key, str) else f"a key of type {type(key).__name__}"
    return f"{name} ({value.dtype if isinstance(value, Tensor) else type(value).__name__})"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_torch(path: Path) -> tuple[Any, dict[str, str]]:
    # with mmap, every version of torch refuses records that exceed the file
    zipped = check_saved(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped), {}
