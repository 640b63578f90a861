"""Zip archives that every reader understands in the same way.

Readers find the directory of an archive in different ways. An archive whose directory is not where
its end says, that has gaps, or that is followed by other data can show different entries to
different readers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
LOCATOR = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
DESCRIPTORS = (struct.Struct("<4s3L"), struct.Struct("<4sL2Q"))
DESCRIBED = 8  # flag of an entry whose sizes follow it
FULL_16, FULL_32 = 2**16 - 1, 2**32 - 1  # mark a number that is stored elsewhere


class _Entry(NamedTuple):
    """An entry, as the directory describes it."""

    name: bytes
    flags: int
    checksum: int
    stored: int  # bytes
    size: int  # bytes, when unpacked
    offset: int


def check_archive(path: Path) -> None:
    """Refuse a zip archive whose entries, directory and end do not follow one another.

    Args:
        path: An archive as torch and Python write them.

    Raises:
        ValueError: if they do not; says where.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        count, start, stop = _find_directory(file, size)
        _require(0 <= start <= stop, "its directory is not where its end says")
        file.seek(start)
        entries = list(_read_entries(file.read(stop - start)))
        _require(len(entries) == count, "its end says another number of entries")
        fits = sum(entry.size for entry in entries) <= size
        _require(fits, "its entries are larger than the file")
        offset = 0
        for entry in sorted(entries, key=lambda entry: entry.offset):
            _require(entry.offset == offset, "it has gaps, or entries that overlap")
            offset = _entry_end(file, entry)
        _require(offset == start, "it has a gap before its directory")


def _find_directory(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """Return the number of entries of the directory, and its start and end."""
    stop = size - END.size
    mark, *disks, here, count, length, start, comment = END.unpack(_read(file, stop, END.size))
    _require(mark == b"PK\5\6" and not comment, "something follows its end")
    stated = (here, count, length, start)
    if stop >= LOCATOR.size + END_64.size:
        mark, disk, offset, _ = LOCATOR.unpack(_read(file, stop - LOCATOR.size, LOCATOR.size))
        if mark == b"PK\6\7":
            stop -= LOCATOR.size + END_64.size
            mark, rest, *_, one, two, here, count, length, start = END_64.unpack(
                _read(file, stop, END_64.size)
            )
            disks += [disk, one, two]
            consistent = mark == b"PK\6\6" and rest == END_64.size - 12 and offset == stop
            full = (FULL_16, FULL_16, FULL_32, FULL_32)
            same = all(
                small in (large, most)
                for small, large, most in zip(
                    stated, (here, count, length, start), full, strict=True
                )
            )
            _require(consistent and same, "its two ends disagree")
    _require(not any(disks) and here == count, "it is part of an archive")
    _require(start + length == stop, "its directory is not where its end says")
    return count, start, stop


def _read_entries(directory: bytes) -> Iterator[_Entry]:
    """Yield the entries of a directory."""
    offset = 0
    while offset < len(directory):
        fields = ENTRY.unpack(directory[offset : offset + ENTRY.size])
        mark, _, _, flags, method, _, _, checksum, stored, size, *others = fields
        name, extra, comment, disk, _, _, start = others
        _require(mark == b"PK\1\2" and not (comment or disk), "its directory is damaged")
        _require(method == 0, "its entries are compressed")
        offset += ENTRY.size
        end = offset + name
        stored, size, start = _zip64_numbers([stored, size, start], directory[end : end + extra])
        yield _Entry(directory[offset:end], flags, checksum, stored, size, start)
        offset = end + extra


def _zip64_numbers(numbers: list[int], extra: bytes) -> list[int]:
    """Return sizes and offset of an entry; large ones are stored in an extra field."""
    order = [1, 0, 2]  # of size, stored size and offset in that field
    large = [index for index in order if numbers[index] == FULL_32]
    if extra or large:
        _require(extra[:4] == struct.pack("<2H", 1, 8 * len(large)), "its directory is damaged")
        for index, value in zip(large, struct.unpack(f"<{len(large)}Q", extra[4:]), strict=True):
            numbers[index] = value
    return numbers


def _entry_end(file: IO[bytes], entry: _Entry) -> int:
    """Return where an entry ends; check that it is as the directory says."""
    header = LOCAL.unpack(_read(file, entry.offset, LOCAL.size))
    mark, _, flags, method, _, _, checksum, stored, size, name, extra = header
    offset: int = entry.offset + LOCAL.size
    stated = (mark, flags, method, _read(file, offset, name), entry.stored)
    same = stated == (b"PK\3\4", entry.flags, 0, entry.name, entry.size)
    offset += name + extra + entry.stored
    numbers = (entry.checksum, entry.stored, entry.size)
    if flags & DESCRIBED:
        for form in DESCRIPTORS:
            follows = _read(file, offset, form.size)
            if len(follows) == form.size and form.unpack(follows) == (b"PK\7\x08", *numbers):
                offset += form.size
                break
        else:
            same = False
    else:
        same &= (checksum, stored, size) == tuple(min(number, FULL_32) for number in numbers)
    _require(same, "an entry is not what is said of it")
    return offset


def _read(file: IO[bytes], offset: int, length: int) -> bytes:
    _require(offset >= 0, "it is cut short")
    file.seek(offset)
    return file.read(length)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
