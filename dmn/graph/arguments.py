"""Which argument of a network's forward holds the images."""

from __future__ import annotations

import inspect

from torch import nn

from dmn.errors import UnsupportedError


def find_image_argument(model: nn.Module) -> str:
    """Return the name of the argument of a forward that images are passed as: its first.

    Other arguments may have defaults, and keep them.

    Args:
        model: Any network.

    Raises:
        UnsupportedError: if the forward takes no positional argument, or requires others besides.
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # as of compiled code, which is called as it is
        return "x"
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    first = next((p for p in named if p.kind is not p.KEYWORD_ONLY), None)
    required = [p for p in named if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    others = [p.name for p in required if p is not first]
    if first is None or others:
        fault = "takes no positional argument"
        if first is not None:
            fault = f"requires {', '.join(others)} besides the images"
        raise UnsupportedError(
            f"the forward of {type(model).__name__} {fault}; wrap it in a module whose forward "
            "takes the images alone"
        )
    return first.name
