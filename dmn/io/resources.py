"""Files shipped with the package: configs and checkpoints, by name."""

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
    """Return the names of the shipped configs: those of a folder, or of training."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def checkpoint_names() -> list[str]:
    """Return the names of the shipped networks."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


def is_path(name: str) -> bool:
    """Return whether a name is the path of a user's file or folder: ./NAME, A/NAME or NAME.SUFFIX.

    Any other name refers to what is shipped, whatever is in the working directory.
    """
    return name.startswith(".") or os.path.dirname(name) != "" or os.path.splitext(name)[1] != ""


def path_hint(name: str) -> str:
    """Return a hint for an error message: how to refer to a file or folder of this name."""
    if is_path(name) or not os.path.exists(name):
        return ""
    return f"; write ./{name} for what is called so in this folder"


def newest_version(run: str) -> str:
    """Return the folder of the newest version of a run, whose own folder is given; else nothing."""
    if not is_path(run) or not os.path.isdir(run):
        return ""
    versions = [config.parent.name for config in Path(run).glob("version_*/config.yaml")]
    newest = max(versions, key=lambda name: (len(name), name), default="")
    return newest and os.path.join(run, newest)


def config_path(name: str, folder: str = "") -> Path:
    """Find a config by name among those shipped or, otherwise, by its path.

    Args:
        name: A name such as "mnist", or a file; see `is_path`.
        folder: Folder of shipped configs, such as "compare"; empty for training.

    Returns:
        The path, absolute if it could be mistaken for the name of a shipped config.

    Raises:
        UnknownNameError: if there is no such config; lists those that exist.
    """
    paths = (CONFIGS / folder).rglob("*.yaml")
    shipped = {
        path.relative_to(CONFIGS / folder).with_suffix("").as_posix(): path for path in paths
    }
    if name in shipped:
        return shipped[name]
    if is_path(name) and os.path.isfile(name):
        return Path(name) if Path(name).suffix in SUFFIXES else Path(name).absolute()
    if name.endswith(SUFFIXES) and (config := shipped.get(os.path.splitext(name)[0])):
        return config
    raise UnknownNameError(
        f"no config {name!r}; dmn ships {', '.join(config_names(folder))}, and takes .yaml files"
        + path_hint(name)
    )
