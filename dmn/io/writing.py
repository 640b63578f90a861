"""Files written whole or not at all: a reader never meets half of one, whatever happens."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dmn.errors import WriteError

try:
    import fcntl
except ImportError:  # Windows has none: there, what killed writers left stays
    fcntl = None  # type: ignore[assignment]

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
REMEDY = "free some space, or choose a folder that can be written to"
PERMISSIONS = 0o777


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write a file whole or not at all, and make its folder if there is none.

    The content goes to a new file beside it, which then takes its place and its permissions:
    whoever is killed meanwhile leaves the old file as it was. Several processes may write the same
    file at once; the last one wins. A symbolic link is replaced by the file, and what it leads to
    stays as it is.

    Args:
        path: Of the file.
        content: All of it; text is written as UTF-8.

    Returns:
        The path.

    Raises:
        WriteError: names the file, and why it cannot be written; so if it is a folder, a pipe or a
            device, such as `/dev/stdout`.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    in_the_way = os.path.exists(path) and not os.path.isfile(path)
    if in_the_way or os.path.realpath(path.parent) == "/dev":  # whose links may lead to a file
        raise WriteError(f"{path}: cannot be written, it is no regular file; give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with _part(path) as file:
            if os.path.isfile(path) and not os.path.islink(path):
                own = file.name if fcntl is None else file.fileno()
                os.chmod(own, path.stat().st_mode & PERMISSIONS)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(file.name, path)
    except OSError as error:
        raise WriteError(
            f"{path}: cannot be written, {error.strerror or error}; {REMEDY}"
        ) from error
    return path


@contextmanager
def _part(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside another, which is locked while it is written, and gone afterwards."""
    while True:
        # exclusive, under a name that nobody can guess: no link that waits there is followed
        with path.with_name(f".{path.name}.{secrets.token_hex(4)}.part").open("xb") as file:
            try:
                with suppress(OSError, AttributeError):  # some file systems have no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink:  # else it was taken for a leftover meanwhile
                    yield file
                    return
            finally:
                with suppress(OSError):
                    os.unlink(file.name)


def _remove_leftovers(path: Path) -> None:
    """Remove what is left of writers that were killed: those at work hold a lock."""
    if fcntl is None:
        return
    part = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    for name in filter(part.fullmatch, os.listdir(path.parent)):
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(path.with_name(name), flags), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path.with_name(name))
