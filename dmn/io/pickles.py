"""What torch has saved, looked through before torch reads it."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from dmn.io.archives import check_archive

ZIP = b"PK\x03\x04"
LEGACY_PICKLES = 5  # with which torch's format of before 1.6 begins
DEEPEST = 200  # that values may be nested; hashing tuples much deeper overflows Python's stack
# Less than torch allows, which includes calls that take memory without bound: _codecs.encode, ...
_NAMED = re.compile(
    r"collections (OrderedDict|Counter)|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\._utils _rebuild_parameter_with_state|torch\.nn\.parameter Parameter"
    r"|torch (\w+Storage|Size|device|b?float\d+|u?int\d+|bool)|(__builtin__|builtins) (set|complex)"
)


def check_saved(path: Path) -> bool:
    """Refuse a file that torch has not saved, or that asks for more than weights.

    Args:
        path: Of `torch.save`.

    Returns:
        Whether it is a zip archive, torch's format since 1.6.

    Raises:
        ValueError: says what is wrong; a damaged file raises others, too.
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
    """Refuse entries that ask for more than weights, or are damaged."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith(".pkl"):
                with archive.open(entry) as pickled:
                    _check_pickle(pickled)
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged, by its checksum")


def _check_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle that names anything but what weights are made of, or is nested too deeply."""
    stack: list[int | None] = []  # how deep each value is nested; None is a mark
    memo: dict[Any, int] = {}
    for code, argument, _ in pickletools.genops(file):
        if code.name == "GLOBAL" and not _NAMED.fullmatch(str(argument)):
            name = ascii(str(argument).replace(" ", "."))[:100]
            raise ValueError(f"it asks for {name}, which is no part of weights")
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
    """Take from the stack what a code takes, and return how deep what it makes is nested."""
    taken: list[int | None] = []
    whole = [each for each in code.stack_before if each is not pickletools.stackslice]
    for kind in reversed(whole):
        if kind is pickletools.markobject:
            while (value := stack.pop()) is not None:
                taken.append(value)
        else:
            taken.append(stack.pop())
    *inner, outer = [each or 0 for each in taken] or [0]
    if code.name.startswith("TUPLE"):
        inner.append(outer)
    return max(outer, 1 + max(inner, default=-1))
