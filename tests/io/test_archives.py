"""Zip archives that Python and torch would read in different ways, or that are none of torch's."""

import io
import re
import struct
import zipfile

import pytest
import torch
from hostile_files import honest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmn.errors import CheckpointError
from dmn.io.archives import check_archive
from dmn.io.weights import read_weights

END, LOCATOR, END_64 = 22, 20, 56


def saved(state=None):
    content = io.BytesIO()
    torch.save(honest() if state is None else state, content)
    return content.getvalue()


def python_made(**options):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}." * 9)
        archive.writestr("a/version", b"3\n")
    return content.getvalue()


def parts(content):
    """Split an archive into its entries, its directory, and its end of 98 bytes."""
    length, start = struct.unpack("<2L", content[-10:-2])
    return content[:start], content[start : start + length], content[start + length :]


def moved(end, by):
    """Let the ends say that the directory is elsewhere."""
    place = int.from_bytes(end[48:56], "little") + by
    end = end[:48] + struct.pack("<Q", place) + end[56:]
    record = int.from_bytes(end[64:72], "little") + by
    return end[:64] + struct.pack("<Q", record) + end[72:-6] + struct.pack("<LH", place, 0)


def two_directories(place):
    """Hide an archive's entries: its end says one directory, and another one is beside it."""
    entries, directory, end = parts(saved())
    other, own, _ = parts(saved({"w": torch.zeros(1)}))
    return {
        "before": entries + own + directory + moved(end, len(own)),
        "after": entries + directory + own + moved(end, 0),
        "between the ends": entries + directory + end[:76] + own + end[76:],
        "in front": other + own + entries + directory + end,
    }[place]


def changed(content, place, value):
    place %= len(content)
    return content[:place] + value + content[place + len(value) :]


def overlapping():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/data/0", bytes(1000))
        archive.filelist *= 5
        archive._didModify = True
    return content.getvalue()


def edited(content, entry, value, place):
    """Change the directory's entry, counted from its start."""
    entries, directory, end = parts(content)
    starts = [found.start() for found in re.finditer(b"PK\1\2", directory)]
    return entries + changed(directory, starts[entry] + place, value) + end


PYTHON = python_made()
HOSTILE = {
    "a directory before the one that is told": (two_directories("before"), "gap before"),
    "a directory after it": (two_directories("after"), "two ends disagree|not where its end"),
    "a directory between the ends": (two_directories("between the ends"), "not where its end"),
    "an archive in front": (two_directories("in front"), "not where its end|two ends disagree"),
    "a prefix": (b"PK\3\4" + saved(), "two ends disagree|not where"),
    "bytes behind the end": (saved() + b"more", "something follows its end"),
    "a comment": (saved()[:-2] + b"\4\0more", "something follows its end"),
    "compressed entries": (python_made(compression=zipfile.ZIP_DEFLATED), "entries are compressed"),
    "entries that are one": (overlapping(), "its entries are larger than the file"),
    "another number of entries": (changed(PYTHON, -END + 8, b"\1\0\1\0"), "number of entries"),
    "several disks": (changed(PYTHON, -END + 4, b"\1\0"), "part of an archive"),
    "another directory by the old end": (changed(saved(), -6, b"\0"), "two ends disagree"),
    "another directory by the new end": (
        changed(saved(), -END - LOCATOR - END_64 + 48, b"\0"),
        "two ends disagree",
    ),
    "a new end elsewhere": (changed(saved(), -END - LOCATOR + 8, b"\0\0"), "two ends disagree"),
    "an entry of another name": (edited(saved(), 1, b"X", 46), "not what is said"),
    "an entry of another size": (edited(saved(), 0, b"\1\0\0\0\1", 20), "not what is said"),
    "an entry larger than the file": (
        edited(saved(), 0, b"\xfe\xff\xff\xff", 24),
        "its entries are larger than the file",
    ),
    "an entry at another place": (edited(saved(), 0, b"\1", 42), "gaps, or entries that overlap"),
    "an entry with a comment": (edited(PYTHON, 0, b"\1", 32), "directory is damaged"),
    "another size where it is": (changed(PYTHON, 22, b"\1"), "not what is said"),
    "another name where it is": (changed(PYTHON, 30, b"X"), "not what is said"),
    "a comment that is missing": (changed(saved(), -2, b"\1"), "something follows its end"),
}


@pytest.mark.torture("a file of weights is a zip with {what}", "refused before torch reads it")
@pytest.mark.parametrize("what", HOSTILE)
def test_archives_of_several_readings_are_refused(what, tmp_path, happened):
    path = tmp_path / "odd.pt"
    content, told = HOSTILE[what]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"odd.pt: not a file of weights: .*({told})") as it:
        read_weights(path)
    happened(str(it.value).replace(str(tmp_path), ""))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_torch_and_python_write_is_read(count, tmp_path):
    path = tmp_path / "own.pt"
    state = {str(each): torch.rand(each, 7) for each in range(count)}
    torch.save(state, path)
    assert read_weights(path).keys() == state.keys()
    path.write_bytes(PYTHON)
    check_archive(path)


def test_more_entries_than_two_bytes_count_are_read(tmp_path):
    path = tmp_path / "many.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for each in range(2**16 + 1):
            archive.writestr(f"a/{each}", b"")
    check_archive(path)


@pytest.mark.torture(
    "a zip of weights is changed anywhere but in its entries", "refused, or as it was"
)
def test_a_changed_directory_changes_nothing_that_is_read(tmp_path, full):
    """What is not refused holds what it held."""
    path, state = tmp_path / "odd.pt", honest()
    content = saved(state)
    entries = len(parts(content)[0])

    @settings(max_examples=500 if full else 60, deadline=None, derandomize=not full, database=None)
    @given(st.integers(entries, len(content) - 1), st.binary(max_size=8), st.integers(0, 8))
    def check(place, put, cut):
        path.write_bytes(content[:place] + put + content[place + cut :])
        try:
            weights = read_weights(path)
        except CheckpointError:
            return
        assert weights.keys() == state.keys()
        assert all(torch.equal(weights[key], state[key]) for key in state)

    check()
