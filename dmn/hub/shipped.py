"""Networks as they are shipped: weights in NAME.safetensors, and beside them a card, NAME.json.

The card says how the network is built, trained and tested. Neither file can execute code.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch

from dmn.errors import CheckpointError, UnknownNameError
from dmn.hub.building import load_described, require_file
from dmn.hub.cards import content_of, read_card
from dmn.hub.network import Network
from dmn.io.resources import CHECKPOINTS
from dmn.io.writing import write_whole

PACKAGES = ("dmn", "torch", "pytorch-lightning", "quantus")


def load_shipped(name: str) -> Network:
    """Load a shipped network by its name; see `dmn.load`."""
    return load_with_card(CHECKPOINTS / f"{name}.safetensors", "shipped")


def load_with_card(path: Path | str, source: str = "card") -> Network:
    """Load a file of weights with its card beside it; see `dmn.load`."""
    path = Path(path)
    card_path = path.with_suffix(".json")
    card = read_card(require_file(card_path))
    if hashlib.sha256(content_of(require_file(path))).hexdigest() != card.get("sha256"):
        raise CheckpointError(f"{path}: damaged, by the hash on its card")
    return load_described(path.stem, card, card_path, path, source)


def save_network(network: Network, folder: str | Path, **facts: Any) -> Path:
    """Save a network with its card, as shipped networks are; each file whole or not at all.

    Args:
        network: Loaded from a run or from another card.
        folder: Where to write; the files are named after the network.
        **facts: What else the card says, such as `accuracy` and `command`.

    Returns:
        The file of weights.

    Raises:
        UnknownNameError: if it is not known how the network is built.
        WriteError: if a file cannot be written.
    """
    if "net" not in network.card:
        raise UnknownNameError(
            f"{network.name} is not of dmn.models, and gets no card; converted networks are saved "
            "by dmn.hub.save_converted"
        )
    state = {key: value.detach().clone() for key, value in network.model.state_dict().items()}
    content = safetensors.torch.save({key: value.contiguous() for key, value in state.items()})
    known = {key: getattr(network, key) for key in ("name", "classes", "size", "mean", "std")}
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    digest = hashlib.sha256(content).hexdigest()
    card = {**network.card, **known, **facts, "versions": versions, "sha256": digest}
    path = Path(folder, f"{network.name}.safetensors")
    write_whole(path, content)
    write_whole(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return path
