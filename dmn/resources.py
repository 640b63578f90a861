"""Files that travel with the package: configs and checkpoints, by name from anywhere."""

from __future__ import annotations

from pathlib import Path

from dmn.errors import DmnError

_PACKAGE = Path(__file__).parent
CONFIGS, CHECKPOINTS = (
    next(path for path in (_PACKAGE / name, _PACKAGE.parent / name, _PACKAGE) if path.is_dir())
    for name in ("configs", "checkpoints")
)


class UnknownConfigError(DmnError, ValueError):
    """A config that is neither a file nor shipped; names those that are."""


def config_names(folder: str = "") -> list[str]:
    """Return the names of the configs that are shipped, those of training or of a folder's use."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def checkpoint_names() -> list[str]:
    """Return the names of the trained networks that are shipped."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


def config_path(name: str, folder: str = "") -> Path:
    """Find a config by its path or, failing that, by its name among those shipped.

    Args:
        name: A file, or a name such as "mnist".
        folder: Of the shipped configs of one use, such as "compare"; none for training.

    Raises:
        UnknownConfigError: names the configs that there are.
    """
    for path in (Path(name), CONFIGS / folder / name, CONFIGS / folder / f"{name}.yaml"):
        if path.is_file():
            return path
    raise UnknownConfigError(
        f"no config {name!r}: it is no file, and dmn ships {', '.join(config_names(folder))}"
    )
