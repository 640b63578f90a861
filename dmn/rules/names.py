"""All spellings of an operation of torch."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NAMESPACES = (nn, F, torch, operator)


def spellings(name: str) -> Iterator[Any]:
    """Yield everything of a name: modules, functions, and the method of tensors."""
    yield from (getattr(namespace, name) for namespace in _NAMESPACES if hasattr(namespace, name))
    if hasattr(Tensor, name):
        yield name


def all_spellings(names: str) -> frozenset[Any]:
    """Return everything of some names, which spaces separate."""
    return frozenset(target for name in names.split() for target in spellings(name))
