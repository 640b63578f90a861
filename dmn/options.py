"""Options that cannot be as they are given: refused by name before anything is done."""

from __future__ import annotations

import math
from pathlib import PurePath

from dmn.errors import DmnError

ABOVE_ZERO = math.ulp(0.0)  # the least number that is
SEEDS = 2**32 - 1  # the largest that NumPy takes


class OptionError(DmnError):  # no ValueError, which jsonargparse would take for its own
    """An option that cannot be as it is given; names it, and says what can."""


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


def require_below(option: str, path: str) -> None:
    """Refuse what would lead out of the folder that it is written in.

    Args:
        option: Its name, as on the command line.
        path: Relative to that folder.

    Raises:
        OptionError: names the option.
    """
    parts = PurePath(path).parts
    if not parts or PurePath(path).is_absolute() or ".." in parts or not path.isprintable():
        raise OptionError(f"{option} is {path!r}; give a name, or some joined by /, without ..")
