"""Start a network from the weights of a checkpoint, and say what fitted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from torch import Tensor, nn

from dmn.errors import DmnError
from dmn.nn import project

log = logging.getLogger(__name__)

PREFIX = "net."  # of the network within a ClassificationTask
SHOWN = 8


class CheckpointError(DmnError, ValueError):
    """A checkpoint that cannot be read, or whose weights do not fit; names the file and keys."""


@dataclass(frozen=True)
class Fit:
    """How a checkpoint fitted a network.

    Attributes:
        loaded: Keys taken from the checkpoint.
        missing: Keys of the network that the checkpoint lacks; they keep their start.
        unexpected: Keys of the checkpoint that the network lacks.
        replaced: Keys of the head that keep their start, the classes being others.
        projected: How many weights were below their floor, and were set to it.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    replaced: tuple[str, ...]
    projected: int

    def __str__(self) -> str:
        """Tell it in one line."""
        parts = [f"loaded {len(self.loaded)} tensors"]
        for name in ("missing", "unexpected", "replaced"):
            if keys := getattr(self, name):
                parts.append(f"{name}: {_shorten(keys)}")
        if self.projected:
            parts.append(f"{self.projected} weights were negative and set to their floor")
        return "; ".join(parts)


def initialise(net: nn.Module, checkpoint: str | Path) -> Fit:
    """Load the weights of a checkpoint into a network, in place; nothing else of it.

    A head with another number of classes keeps its start. The constraint is kept: weights below
    their floor are projected.

    Args:
        net: The network, e.g. `task.net`.
        checkpoint: A Lightning checkpoint, or a state dict in `.pt`, `.pth` or `.safetensors`.

    Returns:
        What was loaded, missing, unexpected and replaced.

    Raises:
        CheckpointError: if the file cannot be read without executing code, if none of its keys
            fits, or if a weight other than the head's has another shape.
    """
    given = read_weights(checkpoint)
    own = net.state_dict()
    shared = own.keys() & given.keys()
    if not shared:
        raise CheckpointError(
            f"{checkpoint}: no weight fits; it has {_shorten(given)}, the network {_shorten(own)}"
        )
    other = [key for key in own if key in shared and own[key].shape != given[key].shape]
    heads = _heads(net)
    if wrong := [key for key in other if key not in heads]:
        shapes = (f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}" for key in wrong)
        raise CheckpointError(f"{checkpoint}: other shapes: {_shorten(list(shapes))}")
    replaced = [key for key in own if key in heads and _head_differs(key, other)]
    loaded = [key for key in own if key in shared and key not in replaced]
    net.load_state_dict({key: given[key] for key in loaded}, strict=False)
    return Fit(
        tuple(loaded),
        tuple(key for key in own if key not in shared),
        tuple(key for key in given if key not in own),
        tuple(replaced),
        _project(net),
    )


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Read the network's weights from a file, without executing code.

    Args:
        checkpoint: A Lightning checkpoint, or a state dict in `.pt`, `.pth` or `.safetensors`.

    Raises:
        CheckpointError: if it is not there, or holds anything but weights.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not a file of weights: {error}") from error
    if "state_dict" in state:
        state = state["state_dict"]
        state = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds other things than weights: {_shorten(state)}")
    weights: dict[str, Tensor] = state
    return weights


def _heads(net: nn.Module) -> set[str]:
    """Return the parameters of the last linear layer of each part (g and h, or the network)."""
    parts = [(f"{name}.", part) for name, part in net.named_children() if name in ("g", "h")]
    keys = set()
    for prefix, part in parts or [("", net)]:
        linear = [name for name, m in part.named_modules() if isinstance(m, nn.Linear)]
        head = f"{prefix}{linear[-1]}." if linear else "\0"
        keys |= {key for key in net.state_dict() if key.startswith(head)}
    return keys


def _head_differs(key: str, other: list[str]) -> bool:
    """Whether any parameter of the head that a key belongs to has another shape."""
    head = key.split(".parametrizations")[0].removesuffix(".weight").removesuffix(".bias")
    return any(name.startswith(f"{head}.") for name in other)


def _project(net: nn.Module) -> int:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    project(net)
    return sum(int((before[name] != value).sum()) for name, value in net.state_dict().items())


def _shorten(keys: object) -> str:
    names = list(keys)  # type: ignore[call-overload]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
