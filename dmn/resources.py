"""Files that travel with the package: configs, by name from anywhere."""

from __future__ import annotations

from pathlib import Path

from dmn.errors import DmnError

_PACKAGE = Path(__file__).parent
CONFIGS = next(
    folder
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs", _PACKAGE)
    if folder.is_dir()
)


class UnknownConfigError(DmnError, ValueError):
    """A config that is neither a file nor shipped; names those that are."""


def config_names() -> list[str]:
    """Return the names of the configs that are shipped."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def config_path(name: str) -> Path:
    """Find a config by its path or, failing that, by its name among those shipped.

    Args:
        name: A file, or a name such as "mnist".

    Raises:
        UnknownConfigError: names the configs that there are.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    raise UnknownConfigError(
        f"no config {name!r}: it is no file, and dmn ships {', '.join(config_names())}"
    )
