import os
import signal

import pytest
from small_disks import run_on_disk

from dmn.writing import WriteError, write_whole

OLD, NEW = b"old" * 1000, b"new" * 5000


def test_folders_are_made_and_text_is_utf_8(tmp_path):
    path = write_whole(tmp_path / "a" / "b" / "ä.txt", "größer als …")
    assert path.read_bytes().decode() == "größer als …"
    assert write_whole(path, b"\0\xff").read_bytes() == b"\0\xff"
    assert [it.name for it in path.parent.iterdir()] == ["ä.txt"]


@pytest.mark.torture("SIGKILL while a file is written, in os.{call}", "the old file as it was")
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_who_is_killed_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = write_whole(tmp_path / "file", OLD)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, call, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        write_whole(path, NEW)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.read_bytes() == OLD
    monkeypatch.undo()
    assert write_whole(path, NEW).read_bytes() == NEW
    assert [it.name for it in tmp_path.iterdir()] == ["file"]  # what was left unfinished is gone


@pytest.mark.torture("a folder's place is taken by a file", "an error that names the file")
def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(WriteError, match=r"taken/file: cannot be written, File exists; free"):
        write_whole(tmp_path / "taken" / "file", OLD)


@pytest.mark.torture("a file is rewritten on a {state} disk", "an error, the old file as it was")
@pytest.mark.parametrize(
    ("state", "how"), [("full", "fill(8192)"), ("read-only", "make_read_only()")]
)
def test_a_disk_that_takes_nothing(tmp_path, state, how, happened):
    out = run_on_disk(
        tmp_path,
        f"""
from dmn.writing import WriteError, write_whole
path = write_whole(disk / "file", {OLD!r})
{how}
try:
    write_whole(path, bytes(100_000))
except WriteError as error:
    print(error)
assert path.read_bytes() == {OLD!r}
assert not list(disk.glob(".*.part"))
""",
        1,
    )
    happened(out.replace(str(tmp_path), ""))
    assert "disk/file: cannot be written, " in out
    assert ("No space left" if state == "full" else "Read-only file system") in out
