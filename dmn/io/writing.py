"""Write files whole or not at all: a reader never finds a partial one."""

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
except ImportError:  # Windows has none; there, leftovers of killed writers stay
    fcntl = None  # type: ignore[assignment]

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
REMEDY = "free some space, or choose a folder that can be written to"
PERMISSIONS = 0o777


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write a file whole or not at all, and create its folder if needed.

    The content goes to a temporary file in the same folder, which then replaces the file and takes
    its permissions. If the process is killed meanwhile, the old file is unchanged. Several
    processes may write the same file at once; the last one wins. A symbolic link is replaced by
    the file, and its target is unchanged.

    Args:
        path: The file.
        content: All of it; text is written as UTF-8.

    Returns:
        The path.

    Raises:
        WriteError: if it cannot be written, or is a folder, a pipe or a device such as
            `/dev/stdout`; names the file, and says why.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    is_special = os.path.exists(path) and not os.path.isfile(path)
    if is_special or os.path.realpath(path.parent) == "/dev":  # whose links may lead to a file
        raise WriteError(f"{path}: cannot be written, it is no regular file; give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with _open_temporary(path) as file:
            if os.path.isfile(path) and not os.path.islink(path):
                target = file.name if fcntl is None else file.fileno()
                os.chmod(target, path.stat().st_mode & PERMISSIONS)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
            if fcntl is None:
                file.close()  # Windows cannot rename an open file
            os.replace(file.name, path)
    except OSError as error:
        raise WriteError(
            f"{path}: cannot be written, {error.strerror or error}; {REMEDY}"
        ) from error
    return path


@contextmanager
def _open_temporary(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside another, locked while it is written, and removed afterwards."""
    while True:
        # exclusive, under a random name, so that no prepared link is followed
        with path.with_name(f".{path.name}.{secrets.token_hex(4)}.part").open("xb") as file:
            try:
                with suppress(OSError, AttributeError):  # some file systems have no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(
                    file.fileno()
                ).st_nlink:  # else another process removed it as a leftover
                    yield file
                    return
            finally:
                with suppress(OSError):
                    os.unlink(file.name)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of writers that were killed; active writers hold a lock."""
    if fcntl is None:
        return
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    for name in filter(temporary.fullmatch, os.listdir(path.parent)):
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(path.with_name(name), flags), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path.with_name(name))
