"""YAML from any source, checked before its values are constructed; YAML that reads as it was."""

from __future__ import annotations

import re
from typing import Any

import yaml

from dmn.io.text import one_line

LARGEST = 100_000  # bytes
DEEPEST = 50  # nested values
MOST = 10_000  # values, counting repetitions by aliases


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes strings such as 1e3, which other readers than PyYAML take for numbers."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def write_yaml(options: Any) -> str:
    """Return plain values as YAML, in their order; text stays text wherever it is read."""
    text: str = yaml.dump(options, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(content: bytes) -> Any:
    """Read plain YAML: no tags, no repeated keys, no unbounded expansion.

    Args:
        content: The content of a file, UTF-8.

    Raises:
        ValueError: says what is wrong and, if known, in which line.
    """
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    try:
        loader = yaml.SafeLoader(content.decode())
        root = loader.get_single_node()
        if root is None:
            return None
        _count(root, {}, 0)
        return loader.construct_document(root)
    except (TypeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(_error_line(error)) from error


def _count(node: yaml.Node, counts: dict[int, int], depth: int) -> int:
    """Count the values in a node with aliases expanded; refuse too many, or too deep ones."""
    if depth > DEEPEST:
        raise ValueError(f"{_line_of(node)}values are nested over {DEEPEST} deep, or in themselves")
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counts:
        inside: list[Any] = node.value
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated([key for key, _ in inside])
            inside = [part for pair in inside for part in pair]
        counts[id(node)] = 1 + sum(_count(part, counts, depth + 1) for part in inside)
    if counts[id(node)] > MOST:
        raise ValueError(f"{_line_of(node)}over {MOST:,} values, once aliases are written out")
    return counts[id(node)]


def _refuse_repeated(keys: list[yaml.Node]) -> None:
    seen = set()
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{_line_of(key)}a key is no name")
        if key.value in seen:
            raise ValueError(f"{_line_of(key)}{key.value!r} stands twice; keep one")
        seen.add(key.value)


def _line_of(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}: "


def _error_line(error: Exception) -> str:
    """Return an error as one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return one_line(error)
