"""Start a network from the weights of a checkpoint, and say what fitted."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dmn.errors import CheckpointError
from dmn.hub import load
from dmn.hub.converted import is_converted, read_original_weights
from dmn.hub.runs import best_checkpoint
from dmn.io.resources import checkpoint_names, path_hint
from dmn.io.weights import format_mismatches, read_weights, state_dict_mismatches, truncate
from dmn.io.wrappers import drop_prefix
from dmn.nn import project
from dmn.train.groups import layer_names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint fitted a network; `initialise` returns it.

    Attributes:
        loaded: Keys taken from the checkpoint.
        missing: Keys of the network that the checkpoint lacks; they keep their initial values.
        unexpected: Keys of the checkpoint that the network lacks.
        replaced: Keys of the head that keep their initial values, as for other classes.
        projected: How many weights were below their floor, and were set to it.

    Examples:
        >>> import dmn
        >>> from dmn.train import initialise
        >>> net = dmn.load("mnist_paired").model
        >>> report = initialise(net, "mnist_paired", fresh_head=True)
        >>> report.replaced
        ('g.net.head.weight', 'g.net.head.bias', 'h.net.head.weight', 'h.net.head.bias')
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    replaced: tuple[str, ...]
    projected: int

    def __str__(self) -> str:
        """Return the report in one line."""
        parts = [f"loaded {len(self.loaded)} tensors"]
        for name in ("missing", "unexpected", "replaced"):
            if keys := getattr(self, name):
                parts.append(f"{name}: {truncate(keys)}")
        if self.projected:
            parts.append(f"{self.projected} weights were negative and set to their floor")
        return "; ".join(parts)


def initialise(net: nn.Module, checkpoint: str | Path, fresh_head: bool = False) -> LoadReport:
    """Load the weights of a checkpoint into a network, in place, and nothing else of it.

    A head with another number of classes keeps its initial values. The constraint is kept: weights
    below their floor are set to it.

    Args:
        net: The network, e.g. `task.net`.
        checkpoint: A Lightning checkpoint; the folder of a run, `runs/NAME/version_K`, for its best
            one; a state dict in `.pt`, `.pth` or `.safetensors`; a split network of `dmn convert`,
            of which the original's weights are taken; or the name of a shipped network.
        fresh_head: Let the head keep its initial values even if it fits, e.g. because the classes
            are others and happen to be as many.

    Returns:
        What was loaded, missing, unexpected and replaced.

    Raises:
        CheckpointError: if the file cannot be read without executing code; if none of its keys
            fits; if a weight is of another type or, except in the head, of another shape; if a
            shipped network is damaged; or if the file is of a canonized network.
    """
    own = net.state_dict()
    given = drop_prefix(_read(checkpoint), own.keys(), checkpoint)
    shared = own.keys() & given.keys()
    if not shared:
        raise CheckpointError(
            f"{checkpoint}: no weight fits; it has {truncate(given)}, the network {truncate(own)}"
        )
    other = [key for key in own if key in shared and own[key].shape != given[key].shape]
    last = layer_names(net)[-1]
    head = {key for key in shared if key.rpartition(".")[0] in last}
    if wrong := [key for key in other if key not in head]:
        shapes = (f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}" for key in wrong)
        raise CheckpointError(
            f"{checkpoint}: other shapes: {truncate(list(shapes))}"
            + _hint_at_channels((own[key].shape, given[key].shape) for key in wrong)
        )
    fitting = {key: own[key] for key in shared if key not in other}
    if wrong := state_dict_mismatches(fitting, given).get("of another type", []):
        raise CheckpointError(f"{checkpoint}: of another type: {truncate(wrong)}")
    replaced = [key for key in own if key in head] if fresh_head or other else []
    loaded = [key for key in own if key in shared and key not in replaced]
    net.load_state_dict({key: given[key] for key in loaded}, strict=False)
    return LoadReport(
        tuple(loaded),
        tuple(key for key in own if key not in shared),
        tuple(key for key in given if key not in own),
        tuple(replaced),
        _project(net),
    )


def _hint_at_channels(shapes: Iterable[tuple[torch.Size, torch.Size]]) -> str:
    """Say what helps if kernels are for another number of channels."""
    for own, other in shapes:
        if len(own) == len(other) > 2 and own[1] != other[1] and own[2:] == other[2:]:
            return (
                "; if its images have other channels, give it such: --data.channels 3 reads grey "
                "images as RGB, 1 colours as grey"
            )
    return ""


def load_shipped_weights(net: nn.Module, name: str) -> None:
    """Load the weights of a shipped network into a network that must compute the same function.

    Args:
        net: The network, e.g. `task.net`; it is left in eval mode.
        name: Name of the shipped network.

    Raises:
        CheckpointError: if the shipped network is another one.
    """
    shipped = load(name)
    state = shipped.model.state_dict()
    if faults := state_dict_mismatches(net.state_dict(), state):
        raise CheckpointError(
            f"{name} is another network than the config's: {format_mismatches(faults)}"
        )
    net.load_state_dict(state)
    assert shipped.size is not None
    image = torch.linspace(0, 1, math.prod(shipped.size)).view(1, *shipped.size)
    with torch.no_grad():
        same = torch.allclose(net.eval()(image), shipped.model(image), 1e-3, 1e-3)
    if not same:
        raise CheckpointError(
            f"{name} is another network than the config's: its weights fit, but units, pools or "
            f"connections differ; its card, checkpoints/{name}.json, says how it is built"
        )


def _read(checkpoint: str | Path) -> dict[str, Tensor]:
    if str(checkpoint) in checkpoint_names():
        return load(str(checkpoint)).model.state_dict()
    hint = path_hint(checkpoint) if isinstance(checkpoint, str) else ""
    if not hint and os.path.isdir(checkpoint):
        checkpoint = best_checkpoint(checkpoint)
    if hint or not os.path.isfile(checkpoint):
        shipped = ", ".join(checkpoint_names())
        raise CheckpointError(f"{checkpoint}: there is no such file; shipped are {shipped}{hint}")
    read = read_original_weights if is_converted(checkpoint) else read_weights
    return read(checkpoint)


def _project(net: nn.Module) -> int:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    project(net)
    return sum(int((before[name] != value).sum()) for name, value in net.state_dict().items())
