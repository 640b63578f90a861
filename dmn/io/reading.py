"""Check files from any source before they are opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def regular(path: str | Path) -> Path:
    """Return the path of a regular file; opening a pipe would block, and a device may never end.

    Args:
        path: The file; links are followed.

    Raises:
        OSError: if there is no such file, or it is something else.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a directory, a pipe or a device, and no regular file")
    return Path(path)
