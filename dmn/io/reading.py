"""Files that anybody may have made: looked at before they are opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def regular(path: str | Path) -> Path:
    """Return the path of a regular file; opening a pipe would wait, and a device never ends.

    Args:
        path: Of the file; links are followed.

    Raises:
        OSError: if there is no such file, or it is something else.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a directory, a pipe or a device, and no regular file")
    return Path(path)
