"""Files written whole or not at all: a reader never meets half of one, whatever happens."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from dmn.errors import DmnError

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
REMEDY = "free some space, or choose a folder that can be written to"


class WriteError(DmnError, OSError):
    """A file that cannot be written, as on a full disk; names it. What it held before is kept."""


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write a file whole or not at all, and make its folder if there is none.

    The content goes to a file beside it, which then takes its place: whoever is killed meanwhile
    leaves the old file as it was.

    Args:
        path: Of the file.
        content: All of it; text is written as UTF-8.

    Returns:
        The path.

    Raises:
        WriteError: names the file, and why it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise WriteError(
            f"{path}: cannot be written, {error.strerror or error}; {REMEDY}"
        ) from error
    return path
