"""Save converted networks, and load them without executing code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from dmn.canonize.folding import canonize
from dmn.errors import CheckpointError
from dmn.hub.pretrained import load
from dmn.io.weights import (
    format_mismatches,
    limit_allocation,
    read_file,
    state_dict_mismatches,
    validate_state_dict,
)
from dmn.io.writing import write_whole
from dmn.rules.base import SLACK
from dmn.split.certificate import Certificate
from dmn.split.model import SplitModel, split

FORMAT = "dmn.converted/1"
_ABOUT: dict[str, type | UnionType] = {
    "canonized": bool,
    "split": dict | None,
    "architecture": str,
    "classes": list,
    "operations": list,
    "certificate": str | None,
}


class Converted(NamedTuple):
    """A converted network, and what was saved with it.

    Attributes:
        network: Canonized, split, or both.
        architecture: torchvision's name of the original, or "".
        classes: A name for each output, or none.
    """

    network: nn.Module
    architecture: str
    classes: tuple[str, ...]


def save_converted(
    network: nn.Module,
    path: str | Path,
    *,
    architecture: str = "",
    classes: Sequence[str] = (),
    canonized: bool = False,
) -> Path:
    """Save a canonized or split network: its weights, how it was made, and its certificate.

    The file is written whole or not at all.

    Args:
        network: Of `canonize` or `split`.
        path: A `.safetensors` file.
        architecture: torchvision's name of the original; without it, loading takes a model.
        classes: A name for each output.
        canonized: Whether a split network was canonized first.

    Raises:
        CheckpointError: if the path is of another kind, as which the file could not be read.
        WriteError: if it cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise CheckpointError(f"{path}: give a name that ends with .safetensors")
    is_split = isinstance(network, SplitModel)
    held = network.network if isinstance(network, SplitModel) else network
    about = {
        "canonized": canonized or not is_split,
        "split": network.options._asdict() if isinstance(network, SplitModel) else None,
        "architecture": architecture,
        "classes": list(classes),
        "operations": _operations(held),
        "certificate": None,
    }
    if isinstance(network, SplitModel) and network.certified:
        about["certificate"] = network.certified.to_json()
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in held.state_dict().items()
    }
    metadata = {"format": FORMAT, "about": json.dumps(about)}
    return write_whole(path, safetensors.torch.save(weights, metadata))


@torch.inference_mode(False)
def load_converted(path: str | Path, model: nn.Module | None = None) -> Converted:
    """Load a converted network.

    Args:
        path: What `save_converted` has written.
        model: A network of the original's architecture, whose weights do not matter; None builds it
            by its name in torchvision.

    Raises:
        CheckpointError: if the file holds no converted network, or that of another architecture.
    """
    path = Path(path)
    about, weights = _read(path)
    if model is None and not about["architecture"]:
        raise CheckpointError(f"{path} names no architecture; pass a model of the original's")
    try:
        with limit_allocation(path, weights):
            model, network, held = _built(model, about)
        if isinstance(network, SplitModel) and any(key.endswith(SLACK) for key in weights):
            network.relax_bounds()
        if isinstance(network, SplitModel) and about["certificate"]:
            network.certified = Certificate.from_json(about["certificate"])
            network.name = str(network.certified) and network.certified.network
    except Exception as error:  # metadata that was tampered with raises anything
        told = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is damaged, or of another model: {told}") from error
    if faults := state_dict_mismatches(held.state_dict(), weights):
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__}: {format_mismatches(faults)}; "
            "is it of the same architecture?"
        )
    if _operations(held) != about["operations"]:
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__}: the same weights, but other operations"
        )
    kinds = [value.dtype for value in weights.values() if value.is_floating_point()]
    held.to(kinds[0] if kinds else None)
    held.load_state_dict(weights)
    return Converted(network, about["architecture"], tuple(about["classes"]))


def _built(
    model: nn.Module | None, about: dict[str, Any]
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the original's architecture, its conversion, and the graph that holds the weights."""
    if model is not None:
        return model, *_rebuilt(model, about)
    model = load(about["architecture"], num_classes=len(about["classes"]) or None).model
    network, held = _rebuilt(model, about)
    if hasattr(model, "transform_input") and _operations(held) != about["operations"]:
        # goes with the weights, see load
        vars(model)["transform_input"] = not model.transform_input
        network, held = _rebuilt(model, about)
    return model, network, held


def _rebuilt(model: nn.Module, about: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Convert a model as another was; returns it, and the graph that holds its weights."""
    held: nn.Module = canonize(model) if about["canonized"] else model
    if about["split"] is None:
        return held, held
    options = {name: about["split"][name] for name in ("pool", "theta", "threshold")}
    network = split(held, **options)
    return network, network.network


def _operations(network: Any) -> list[str]:
    """Name what a graph calls, which its weights alone do not tell."""
    return [str(getattr(node.target, "__name__", node.target)) for node in network.graph.nodes]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        held, metadata = read_file(path)
        weights = validate_state_dict(held, path)
    except CheckpointError as error:
        raise CheckpointError(f"cannot read {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} holds no converted network; `dmn convert` and save_converted write them"
        )
    try:
        about = json.loads(metadata["about"])
        wrong = [name for name, kind in _ABOUT.items() if not isinstance(about[name], kind)]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its metadata cannot be read") from error
    if wrong or not all(isinstance(label, str) for label in about["classes"]):
        wrong = wrong or ["classes"]
        raise CheckpointError(f"{path} is damaged: its metadata is wrong: {', '.join(wrong)}")
    return about, weights
