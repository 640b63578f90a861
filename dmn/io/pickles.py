"""Files that torch has saved, checked before torch reads them."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from dmn.io.archives import check_archive

ZIP = b"PK\x03\x04"
LEGACY_PICKLES = 5  # at the start of torch's format before 1.6
REMEDY = "where you trust it, save its state_dict() alone"
DEEPEST = 200  # levels of nesting; hashing much deeper tuples overflows Python's stack
# Fewer than torch allows, whose list includes calls that use unbounded memory: _codecs.encode, ...
_NAMED = re.compile(
    r"collections (OrderedDict|Counter)|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\._utils _rebuild_parameter_with_state|torch\.nn\.parameter Parameter"
    r"|torch (\w+Storage|Size|device|b?float\d+|u?int\d+|bool)|(__builtin__|builtins) (set|complex)"
)


def check_saved(path: Path) -> bool:
    """Refuse a file that torch has not saved, or that names anything but weights.

    Args:
        path: A file written by `torch.save`.

    Returns:
        Whether it is a zip archive, torch's format since 1.6.

    Raises:
        ValueError: says what is wrong; a damaged file may raise other errors.
    """
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
        file.seek(0)
        if zipped:
            check_archive(path)
            _check_zip(file)
        else:
            for _ in range(LEGACY_PICKLES):
                _check_pickle(file)
    return zipped


def _check_zip(file: IO[bytes]) -> None:
    """Refuse entries that name anything but weights, or are damaged."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith(".pkl"):
                with archive.open(entry) as pickled:
                    _check_pickle(pickled)
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged, by its checksum")


def _check_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle that names anything but the types of weights, or is nested too deeply."""
    stack: list[int | None] = []  # nesting depth of each value; None is a mark
    memo: dict[Any, int] = {}
    for code, argument, _ in pickletools.genops(file):
        if code.name == "GLOBAL" and not _NAMED.fullmatch(str(argument)):
            name = ascii(str(argument).replace(" ", "."))[:100]
            raise ValueError(f"it asks for {name}, which is no part of weights; {REMEDY}")
        if code.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1] or 0
        elif code.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code.name == "MARK":
            stack.append(None)
        else:
            stack += [_depth(code, stack)] * len(code.stack_after)
        if stack and (stack[-1] or 0) > DEEPEST:
            raise ValueError("it is nested too deeply")


def _depth(code: pickletools.OpcodeInfo, stack: list[int | None]) -> int:
    """Pop an operation's arguments from the stack, and return the nesting depth of its result."""
    taken: list[int | None] = []
    kinds = [kind for kind in code.stack_before if kind is not pickletools.stackslice]
    for kind in reversed(kinds):
        if kind is pickletools.markobject:
            while (value := stack.pop()) is not None:
                taken.append(value)
        else:
            taken.append(stack.pop())
    *inner, outer = [depth or 0 for depth in taken] or [0]
    if code.name.startswith("TUPLE"):
        inner.append(outer)
    return max(outer, 1 + max(inner, default=-1))
