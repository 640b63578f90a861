"""Checks of options, which refuse a wrong value by name before anything is done."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import PurePath

import torch

from dmn.errors import OptionError

ABOVE_ZERO = math.ulp(0.0)  # the smallest positive number
SEEDS = 2**32 - 1  # the largest that NumPy takes
LONGEST = 200  # bytes of a file's name; file systems allow 255, including what is added to it


def require(option: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Refuse a number outside a range, or NaN.

    Args:
        option: Its name, as on the command line.
        value: The number; None stands for the default.
        low: The smallest allowed; `ABOVE_ZERO` for more than 0.
        high: The largest allowed.

    Raises:
        OptionError: names the option, and the range.
    """
    if value is not None and not low <= value <= high:
        least = "more than 0" if low == ABOVE_ZERO else f"at least {low}"
        allowed = least if high == math.inf else f"{low} to {high}"
        raise OptionError(f"{option} is {value}; give {allowed}")


def require_device(option: str, device: str) -> None:
    """Refuse a device that PyTorch cannot compute on here.

    Args:
        option: Its name, as on the command line.
        device: A name such as "cpu" or "cuda:1".

    Raises:
        OptionError: names the option, and the devices that there are.
    """
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # each kind of device raises its own
        kind = torch.accelerator.current_accelerator(check_available=True)
        count = torch.accelerator.device_count() if kind else 0
        found = ["cpu", *(f"{kind}:{index}" for index in range(count))]
        hint = "" if kind else "; PyTorch finds no GPU"
        raise OptionError(f"{option} is {device!r}; give {' or '.join(found)}{hint}") from error


def require_names(option: str, path: str) -> None:
    """Refuse names that files cannot have on this system.

    Args:
        option: Its name, as on the command line.
        path: A path of such names.

    Raises:
        OptionError: names the option.
    """
    try:
        longest = max(map(len, map(os.fsencode, PurePath(path).parts)), default=0)
    except UnicodeEncodeError as error:
        raise OptionError(
            f"{option} is {path!r}, but this locale's files are named in {error.encoding}; set "
            "LC_ALL=C.UTF-8, or give another name"
        ) from error
    if longest > LONGEST:
        raise OptionError(
            f"{option} has a name of {longest} bytes; give one of at most {LONGEST}: {path!r}"
        )


def require_below(option: str, path: str) -> None:
    """Refuse a path that leads out of the folder it is written in, or cannot be written.

    Args:
        option: Its name, as on the command line.
        path: Relative to that folder.

    Raises:
        OptionError: names the option.
    """
    require_names(option, path)
    parts = PurePath(path).parts
    if not parts or PurePath(path).is_absolute() or ".." in parts or not path.isprintable():
        raise OptionError(f"{option} is {path!r}; give a name, or some joined by /, without ..")


def require_output(option: str, path: str, suffix: str, inputs: Iterable[str | None] = ()) -> None:
    """Refuse a file name of another suffix, or one that would overwrite an input.

    Args:
        option: Its name, as on the command line.
        path: The file that is to be written.
        suffix: The suffix it must have.
        inputs: The files that are read; names of other things and None are ignored.

    Raises:
        OptionError: names the option, and says what would work.
    """
    require_names(option, path)
    if PurePath(path).suffix != suffix:
        raise OptionError(f"{option} is {path!r}; give a name that ends with {suffix}")
    for read in inputs:
        if read and os.path.exists(path) and os.path.exists(read) and os.path.samefile(path, read):
            raise OptionError(f"{option} is {path!r}, which is read as {read!r}; give another name")
