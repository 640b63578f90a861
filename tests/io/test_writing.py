import multiprocessing
import os
import secrets
import signal
import stat

import pytest
from small_disks import run_on_disk

from dmn.errors import WriteError
from dmn.io.writing import write_whole

OLD, NEW = b"old" * 1000, b"new" * 5000


def test_folders_are_made_and_text_is_utf_8(tmp_path):
    path = write_whole(tmp_path / "a" / "b" / "ä.txt", "größer als …")
    assert path.read_bytes().decode() == "größer als …"
    assert write_whole(path, b"\0\xff").read_bytes() == b"\0\xff"
    assert [it.name for it in path.parent.iterdir()] == ["ä.txt"]


def test_files_are_written_where_the_system_has_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("dmn.io.writing.fcntl", None)  # as on Windows
    path = write_whole(tmp_path / "file", OLD)
    path.chmod(0o600)
    assert write_whole(path, NEW).read_bytes() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [it.name for it in tmp_path.iterdir()] == ["file"]


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
    assert len(list(tmp_path.glob(".*.part"))) == 1
    monkeypatch.undo()
    assert write_whole(path, NEW).read_bytes() == NEW
    assert [it.name for it in tmp_path.iterdir()] == ["file"]  # what was left unfinished is gone


@pytest.mark.torture("a link waits at the name of the new file", "what it leads to is as it was")
def test_no_link_is_followed_that_waits_for_the_new_file(tmp_path, monkeypatch):
    victim = write_whole(tmp_path / "victim", OLD)
    for name in (".file.part", ".file.00000000.part"):
        (tmp_path / name).symlink_to(victim)
    assert write_whole(tmp_path / "file", NEW).read_bytes() == NEW
    monkeypatch.setattr(secrets, "token_hex", lambda _: "00000000")  # as if it were guessed
    with pytest.raises(WriteError, match="file: cannot be written, File exists"):
        write_whole(tmp_path / "file", OLD)
    assert victim.read_bytes() == OLD
    assert (tmp_path / "file").read_bytes() == NEW


@pytest.mark.torture("a file is written where a link is", "the link is replaced, not what it means")
@pytest.mark.parametrize("target", ["there", "missing"])
def test_links_are_replaced(tmp_path, target):
    write_whole(tmp_path / "there", OLD)
    (tmp_path / "link").symlink_to(target)
    assert write_whole(tmp_path / "link", NEW).read_bytes() == NEW
    assert not (tmp_path / "link").is_symlink()
    assert {it.name for it in tmp_path.iterdir()} == {"there", "link"}
    assert (tmp_path / "there").read_bytes() == OLD


NO_FILES = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to a device": lambda path: path.symlink_to("/dev/null"),
    "a link to a folder": lambda path: path.symlink_to("/tmp"),
}


@pytest.mark.torture("a file is written where {what} is", "refused, all as it was")
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_left(tmp_path, what):
    NO_FILES[what](tmp_path / "it")
    before = (tmp_path / "it").lstat()
    with pytest.raises(WriteError, match="it: cannot be written, it is no regular file; give ano"):
        write_whole(tmp_path / "it", NEW)
    assert (tmp_path / "it").lstat() == before
    assert [it.name for it in tmp_path.iterdir()] == ["it"]


def test_nothing_is_written_among_devices():
    for name in ("/dev/stdout", "/dev/null", "/dev/none"):
        with pytest.raises(WriteError, match=f"{name}: cannot be written, it is no regular file"):
            write_whole(name, NEW)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_permissions_are_kept_and_those_of_a_new_file_are_the_usual(tmp_path, mode):
    path = write_whole(tmp_path / "file", OLD)
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    path.chmod(mode)
    assert stat.S_IMODE(write_whole(path, NEW).stat().st_mode) == mode


def _write_often(path, number):
    for _ in range(100):
        write_whole(path, bytes([number]) * 5000)


@pytest.mark.torture("four processes write one file, at once", "no error, and a whole file")
def test_many_may_write_a_file_at_once(tmp_path):
    path = tmp_path / "file"
    writers = [multiprocessing.Process(target=_write_often, args=(path, it)) for it in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(120)
    assert [each.exitcode for each in writers] == [0] * 4
    content = path.read_bytes()
    assert content == content[:1] * 5000
    assert [it.name for it in tmp_path.iterdir()] == ["file"]


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
from dmn.io.writing import WriteError, write_whole
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
