"""Files that travel with the package: configs and checkpoints, by name from anywhere."""

from __future__ import annotations

import os
from pathlib import Path

from dmn.errors import UnknownNameError

_PACKAGE = Path(__file__).parent.parent
CONFIGS, CHECKPOINTS = (
    next(path for path in (_PACKAGE / name, _PACKAGE.parent / name, _PACKAGE) if path.is_dir())
    for name in ("configs", "checkpoints")
)
SUFFIXES = (".yaml", ".yml", ".json")  # of configs


def config_names(folder: str = "") -> list[str]:
    """Return the names of the configs that are shipped, those of training or of a folder's use."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def checkpoint_names() -> list[str]:
    """Return the names of the trained networks that are shipped."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


def is_path(name: str) -> bool:
    """Tell whether a name is of a file or folder of one's own: ./NAME, A/NAME or NAME.SUFFIX.

    Any other is of what is shipped, whatever lies in the working directory.
    """
    return name.startswith(".") or os.path.dirname(name) != "" or os.path.splitext(name)[1] != ""


def offer(name: str) -> str:
    """Say, to go behind a refusal of a name, how a file or folder that is called so can be had."""
    if is_path(name) or not os.path.exists(name):
        return ""
    return f"; write ./{name} for what is called so in this folder"


def config_path(name: str, folder: str = "") -> Path:
    """Find a config by its name among those shipped or, failing that, by its path.

    Args:
        name: A name such as "mnist", or a file; see `is_path`.
        folder: Of the shipped configs of one use, such as "compare"; none for training.

    Returns:
        The path; it is absolute where it could be taken for the name of a shipped config.

    Raises:
        UnknownNameError: names the configs that there are.
    """
    paths = (CONFIGS / folder).rglob("*.yaml")
    shipped = {
        path.relative_to(CONFIGS / folder).with_suffix("").as_posix(): path for path in paths
    }
    if name in shipped:
        return shipped[name]
    if is_path(name) and os.path.isfile(name):
        return Path(name) if Path(name).suffix in SUFFIXES else Path(name).absolute()
    if name.endswith(SUFFIXES) and (known := shipped.get(os.path.splitext(name)[0])):
        return known
    raise UnknownNameError(
        f"no config {name!r}; dmn ships {', '.join(config_names(folder))}, and takes .yaml files"
        + offer(name)
    )
