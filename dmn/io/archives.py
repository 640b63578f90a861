"""Zip archives that have one reading only, whoever reads them.

Readers find the directory of an archive in different ways: one that starts where another says, has
gaps, or is followed by anything, can show one of them harmless entries, and another one others.
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
FULL_16, FULL_32 = 2**16 - 1, 2**32 - 1  # stand for a number that is found elsewhere


class _Entry(NamedTuple):
    """An entry, as the directory tells of it."""

    name: bytes
    flags: int
    checksum: int
    stored: int  # bytes
    size: int  # bytes, once unpacked
    place: int


def check_archive(path: Path) -> None:
    """Refuse a zip archive whose entries, directory and end do not follow one another.

    Args:
        path: Of the archive, as torch and Python write them.

    Raises:
        ValueError: says where it does not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        count, start, stop = _directory(file, size)
        _require(0 <= start <= stop, "its directory is not where its end says")
        file.seek(start)
        entries = list(_entries(file.read(stop - start)))
        _require(len(entries) == count, "its end says another number of entries")
        whole = sum(entry.size for entry in entries) <= size
        _require(whole, "its entries are larger than the file")
        place = 0
        for entry in sorted(entries, key=lambda each: each.place):
            _require(entry.place == place, "it has gaps, or entries that overlap")
            place = _end_of(file, entry)
        _require(place == start, "it has a gap before its directory")


def _directory(file: IO[bytes], size: int) -> tuple[int, int, int]:
    """Return how many entries the directory has, where it starts and where it stops."""
    stop = size - END.size
    mark, *disks, here, count, length, start, comment = END.unpack(_read(file, stop, END.size))
    _require(mark == b"PK\5\6" and not comment, "something follows its end")
    told = (here, count, length, start)
    if stop >= LOCATOR.size + END_64.size:
        mark, disk, place, _ = LOCATOR.unpack(_read(file, stop - LOCATOR.size, LOCATOR.size))
        if mark == b"PK\6\7":
            stop -= LOCATOR.size + END_64.size
            mark, rest, *_, one, two, here, count, length, start = END_64.unpack(
                _read(file, stop, END_64.size)
            )
            disks += [disk, one, two]
            whole = mark == b"PK\6\6" and rest == END_64.size - 12 and place == stop
            full = (FULL_16, FULL_16, FULL_32, FULL_32)
            same = all(
                small in (large, most)
                for small, large, most in zip(told, (here, count, length, start), full, strict=True)
            )
            _require(whole and same, "its two ends disagree")
    _require(not any(disks) and here == count, "it is part of an archive")
    _require(start + length == stop, "its directory is not where its end says")
    return count, start, stop


def _entries(directory: bytes) -> Iterator[_Entry]:
    """Read a directory."""
    place = 0
    while place < len(directory):
        told = ENTRY.unpack(directory[place : place + ENTRY.size])
        mark, _, _, flags, method, _, _, checksum, stored, size, *others = told
        name, extra, comment, disk, _, _, at = others
        _require(mark == b"PK\1\2" and not (comment or disk), "its directory is damaged")
        _require(method == 0, "its entries are compressed")
        place += ENTRY.size
        end = place + name
        stored, size, at = _full([stored, size, at], directory[end : end + extra])
        yield _Entry(directory[place:end], flags, checksum, stored, size, at)
        place = end + extra


def _full(numbers: list[int], extra: bytes) -> list[int]:
    """Return sizes and place of an entry, of which large ones stand in an extra field."""
    order = [1, 0, 2]  # in which that has the size, what is stored of it, and the place
    large = [each for each in order if numbers[each] == FULL_32]
    if extra or large:
        _require(extra[:4] == struct.pack("<2H", 1, 8 * len(large)), "its directory is damaged")
        for each, value in zip(large, struct.unpack(f"<{len(large)}Q", extra[4:]), strict=True):
            numbers[each] = value
    return numbers


def _end_of(file: IO[bytes], entry: _Entry) -> int:
    """Return where an entry ends, once it is what the directory says."""
    header = LOCAL.unpack(_read(file, entry.place, LOCAL.size))
    mark, _, flags, method, _, _, checksum, stored, size, name, extra = header
    place: int = entry.place + LOCAL.size
    told = (mark, flags, method, _read(file, place, name), entry.stored)
    same = told == (b"PK\3\4", entry.flags, 0, entry.name, entry.size)
    place += name + extra + entry.stored
    numbers = (entry.checksum, entry.stored, entry.size)
    if flags & DESCRIBED:
        for form in DESCRIPTORS:
            follows = _read(file, place, form.size)
            if len(follows) == form.size and form.unpack(follows) == (b"PK\7\x08", *numbers):
                place += form.size
                break
        else:
            same = False
    else:
        same &= (checksum, stored, size) == tuple(min(each, FULL_32) for each in numbers)
    _require(same, "an entry is not what is said of it")
    return place


def _read(file: IO[bytes], place: int, length: int) -> bytes:
    _require(place >= 0, "it is cut short")
    file.seek(place)
    return file.read(length)


def _require(holds: bool, refusal: str) -> None:
    if not holds:
        raise ValueError(refusal)
