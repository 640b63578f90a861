"""Versions of what a result was computed with."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of installed packages, by name."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
