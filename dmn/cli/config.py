"""Config files, looked through before anything in them is believed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    Namespace,
    set_dumper,
)
from jsonargparse.typing import Path as FoundPath

from dmn.errors import OptionError
from dmn.io.reading import regular
from dmn.io.resources import SUFFIXES, config_names
from dmn.io.yaml import LARGEST, read_yaml, write_yaml

OF_ONE_COMMAND = ("init_from", "fresh_head", "weights_only", "verbose")  # in what runs have saved
log = logging.getLogger(__name__)
set_dumper("yaml", write_yaml)


class ConfigFile(ActionConfigFile):
    """The option `--config`: its file is looked through, then read."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Read a config file.

        Raises:
            OptionError: names the file and, where there is one, the line.
        """
        options = read_config(values)
        accepted = {action.dest for action in parser._actions}
        left_out = [name for name in OF_ONE_COMMAND if name in options and name not in accepted]
        if left_out and "ckpt_path" in accepted:  # a command for runs
            log.info("%s: left out, as other commands take it: %s", values, ", ".join(left_out))
            options = {name: options[name] for name in options if name not in left_out}
            values = write_yaml(options)
        earlier, model = cfg.get("model.terms"), options.get("model")
        if earlier and isinstance(model, dict) and isinstance(model.get("terms"), dict):
            values = write_yaml({**options, "model": _with_terms(model, _plain(earlier))})
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def add_config_option(parser: ArgumentParser, folder: str = "") -> None:
    """Add `--config` to a parser.

    Args:
        parser: Of a command.
        folder: Of the shipped configs of its use; none for training.
    """
    parser.add_argument(
        "-c",
        "--config",
        action=ConfigFile,
        help=f"A YAML file, or the name of a shipped config: {', '.join(config_names(folder))}.",
    )


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a file, unless it is no plain YAML mapping, or would expand without end.

    What its keys mean is left to the command that reads it.

    Args:
        path: Of the file.

    Raises:
        OptionError: names the file and, where there is one, the line.
    """
    options, _ = _read(path)
    if not isinstance(options, dict):
        raise _refusal(path, "it holds no options; write some as `trainer: {max_epochs: 5}`")
    return options


@contextmanager
def configs_looked_through() -> Iterator[None]:
    """Let jsonargparse look through the configs that others name, as in `trainer: mine.yaml`.

    It takes any value of an option that takes a class for such a file if there is one. Here only
    those with a folder or a suffix of configs are: a stray file `Adam` hides no class. Nothing is
    fetched from elsewhere.
    """
    find, read = FoundPath.__init__, FoundPath.read_text

    def find_named(
        self: FoundPath, path: Any, mode: str = "fr", *args: Any, **options: Any
    ) -> None:
        if set("fr") <= set(mode):
            mode = "fr"  # Lightning adds addresses, which would be asked at once
            if isinstance(path, str) and not _is_config(path):
                raise TypeError(f"{path} names no config")  # as where there is no file
        find(self, path, mode, *args, **options)

    # every file that jsonargparse reads passes here, and nothing else of it says which these are
    FoundPath.__init__ = find_named  # type: ignore[method-assign]
    FoundPath.read_text = lambda self: _read(self.absolute)[1]  # type: ignore[method-assign]
    try:
        yield
    finally:
        FoundPath.__init__, FoundPath.read_text = find, read  # type: ignore[method-assign]


def _with_terms(model: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Keep the terms of earlier configs, which jsonargparse would drop, unless there are none."""
    terms = model["terms"]
    return {**model, "terms": {**earlier, **terms} if terms else terms}


def _plain(options: Any) -> Any:
    """Turn namespaces into dictionaries, at any depth."""
    if isinstance(options, Namespace):
        options = options.as_dict()
    if isinstance(options, dict):
        return {name: _plain(value) for name, value in options.items()}
    return options


def _is_config(name: str) -> bool:
    return Path(name).name != name or name.endswith(SUFFIXES)


def _read(path: str | Path) -> tuple[Any, str]:
    """Return what a file holds, and its text."""
    try:
        with regular(path).open("rb") as file:
            content = file.read(LARGEST + 1)
        return read_yaml(content), content.decode()
    except (OSError, ValueError) as error:
        raise _refusal(path, str(error)) from error


def _refusal(path: str | Path, reason: str) -> OptionError:
    return OptionError(f"{path}: cannot be read as a config ({' '.join(reason.split())})")
