"""Objects from class paths and arguments, which cards and configurations of any source have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from dmn.errors import OptionError, UnknownNameError

Allowed = Mapping[str, Callable[..., Any]]


def class_paths(package: ModuleType) -> dict[str, Any]:
    """Return everything that a package exports, by its path."""
    return {f"{package.__name__}.{name}": getattr(package, name) for name in package.__all__}


def instantiate(spec: Any, allowed: Allowed) -> Any:
    """Make an object from a class path and arguments, which may be such specifications themselves.

    Nothing is imported: a path that is not a key of `allowed` is only a text.

    Args:
        spec: A dictionary with `class_path` and, optionally, `init_args`, as of jsonargparse. Any
            other value is returned as it is.
        allowed: What may be called, by its path.

    Returns:
        What the allowed callable returns for the arguments.

    Raises:
        UnknownNameError: if a path is not allowed; names those that are.
        OptionError: if the arguments are not a dictionary.
    """
    if not isinstance(spec, dict) or "class_path" not in spec:
        return spec
    path, arguments = spec["class_path"], spec.get("init_args") or {}
    if not isinstance(path, str) or path not in allowed:
        raise UnknownNameError(f"{path!r} is not built, only {', '.join(allowed)}")
    if not isinstance(arguments, dict):
        raise OptionError(f"init_args of {path} is {arguments!r}; give names and values")
    return allowed[path](**{name: instantiate(value, allowed) for name, value in arguments.items()})
