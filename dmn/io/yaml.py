"""YAML of strangers, looked through before its values are made."""

from __future__ import annotations

from typing import Any

import yaml

LARGEST = 100_000  # bytes
DEEPEST = 50  # nested values
MOST = 10_000  # values, those that aliases repeat counted as often


def read_yaml(content: bytes) -> Any:
    """Read plain YAML: no tags, no key twice, nothing that would expand without end.

    Args:
        content: Of a file, UTF-8.

    Raises:
        ValueError: says what is wrong and, where there is one, in which line.
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
        raise ValueError(_reason(error)) from error


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
