"""Config files, looked through before anything in them is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from dmn.errors import DmnError

LARGEST = 100_000  # bytes
DEEPEST = 50  # nested values
MOST = 10_000  # values, those that aliases repeat counted as often


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
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        loader = yaml.SafeLoader(content.decode())
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("it holds no options; write some as `trainer: {max_epochs: 5}`")
        _count(root, {}, 0)
        loader.construct_document(root)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a config ({_reason(error)})") from error


def _count(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Count the values in a node once its aliases are written out; refuse what is odd."""
    if depth > DEEPEST:
        raise ValueError(f"{_place(node)}values are nested over {DEEPEST} deep, or in themselves")
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        inside: list[Any] = node.value
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated([key for key, _ in inside])
            inside = [part for pair in inside for part in pair]
        known[id(node)] = 1 + sum(_count(part, known, depth + 1) for part in inside)
    if known[id(node)] > MOST:
        raise ValueError(f"{_place(node)}over {MOST:,} values, once aliases are written out")
    return known[id(node)]


def _refuse_repeated(keys: list[yaml.Node]) -> None:
    seen = set()
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{_place(key)}a key is no name")
        if key.value in seen:
            raise ValueError(f"{_place(key)}{key.value!r} stands twice; keep one")
        seen.add(key.value)


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}: "


def _reason(error: Exception) -> str:
    """Tell an error in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split()) or type(error).__name__
