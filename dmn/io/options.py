"""Options that cannot be as they are given: refused by name before anything is done."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import PurePath

from dmn.errors import OptionError

ABOVE_ZERO = math.ulp(0.0)  # the least number that is
SEEDS = 2**32 - 1  # the largest that NumPy takes
LONGEST = 200  # bytes of a file's name; file systems take 255, with what is added to it


def require(option: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Refuse a number outside a range, and one that is none.

    Args:
        option: Its name, as on the command line.
        value: What it is; None is left to the default.
        low: The least it may be; `ABOVE_ZERO` for more than 0.
        high: The most.

    Raises:
        OptionError: names the option, and the range.
    """
    if value is not None and not low <= value <= high:
        least = "more than 0" if low == ABOVE_ZERO else f"at least {low}"
        wanted = least if high == math.inf else f"{low} to {high}"
        raise OptionError(f"{option} is {value}; give {wanted}")


def require_names(option: str, path: str) -> None:
    """Refuse names that files cannot have here.

    Args:
        option: Its name, as on the command line.
        path: Of such names.

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
    """Refuse what would lead out of the folder that it is written in, or cannot be written.

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
    """Refuse to write what others would not read under its name, or in place of what is read.

    Args:
        option: Its name, as on the command line.
        path: Of the file that is to be written.
        suffix: How it has to end.
        inputs: What is read: files and, which do no harm, names of other things and None.

    Raises:
        OptionError: names the option, and says what can be.
    """
    require_names(option, path)
    if PurePath(path).suffix != suffix:
        raise OptionError(f"{option} is {path!r}; give a name that ends with {suffix}")
    for each in inputs:
        if each and os.path.exists(path) and os.path.exists(each) and os.path.samefile(path, each):
            raise OptionError(f"{option} is {path!r}, which is read as {each!r}; give another name")
