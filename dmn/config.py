"""Config files, looked through before anything in them is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from dmn.errors import DmnError
from dmn.plain_yaml import LARGEST, read_yaml


class ConfigError(DmnError):  # no ValueError, which jsonargparse would take for its own
    """A config file that cannot be read as one; names the file, the line and the fault."""


class ConfigFile(ActionConfigFile):
    """The option `--config`: its file is looked through, then read."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Read a config file.

        Raises:
            ConfigError: names the file and, where there is one, the line.
        """
        check_config(values)
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def check_config(path: str | Path) -> None:
    """Refuse a file that is no plain YAML mapping, or that would expand without end.

    What its keys mean is left to the command that reads it.

    Args:
        path: Of the file.

    Raises:
        ConfigError: names the file and, where there is one, the line.
    """
    try:
        with open(path, "rb") as file:
            told = read_yaml(file.read(LARGEST + 1))
        if not isinstance(told, dict):
            raise ValueError("it holds no options; write some as `trainer: {max_epochs: 5}`")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as a config ({reason})") from error
