"""Networks of `dmn.models`, built as a card says and filled from a file of weights."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dmn import models
from dmn.errors import CheckpointError, UnknownNameError
from dmn.hub.cards import Card, ImageCard, validate_card
from dmn.hub.network import Network
from dmn.hub.preprocess import preprocess
from dmn.io.class_paths import class_paths, instantiate
from dmn.io.weights import format_mismatches, limit_allocation, read_weights, state_dict_mismatches
from dmn.io.wrappers import drop_prefix

NETWORKS = class_paths(models)


def build(spec: Any) -> nn.Module:
    """Build a network from class path and arguments, if it is one of `dmn.models`.

    Raises:
        UnknownNameError: if it is none; names those that there are.
        OptionError: if its arguments are not names and values.
    """
    network: nn.Module = instantiate(spec, NETWORKS)
    return network


def load_described(
    name: str, values: dict[str, Any], card_path: Path, path: Path, source: str
) -> Network:
    """Build the network that a card describes, and fill it from a file.

    Args:
        name: What the network is called.
        values: Of the card.
        card_path: Where these are from.
        path: The file of weights.
        source: What kind of file it is; see `Network`.

    Raises:
        UnknownNameError: if the network is none of dmn's.
        CheckpointError: if the card or the file is damaged, or one does not fit the other.
    """
    card = validate_card(Card, values, card_path)
    state = read_weights(path)
    try:
        with limit_allocation(path, state):
            model = build(card.net)
        state = drop_prefix(state, model.state_dict().keys(), path)
        faults = state_dict_mismatches(model.state_dict(), state)
    except UnknownNameError as error:
        raise UnknownNameError(f"{path}: {error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # a card that was tampered with raises anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: does not fit what is said of it: {reason}") from error
    if faults:
        raise CheckpointError(
            f"{path}: does not fit what is said of it: {format_mismatches(faults)}"
        )
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
    return Network(
        name, model, tuple(card.classes), **about_images(card), card=values, source=source
    )


def fill(model: nn.Module, state: dict[str, Tensor], refusal: str, remedy: str) -> None:
    """Load weights into a network, which must be all of its own.

    Args:
        model: The network.
        state: By its keys.
        refusal: What is said first if they do not fit.
        remedy: What is said last.

    Raises:
        CheckpointError: if they do not fit; names the keys.
    """
    own = model.state_dict()
    # counters of batches, which old files lack, are not used in evaluation
    spare = [key for key in own if key.endswith("num_batches_tracked") and key not in state]
    if faults := state_dict_mismatches({key: own[key] for key in own if key not in spare}, state):
        raise CheckpointError(f"{refusal}: {format_mismatches(faults)}; {remedy}")
    own.update(state)  # in the model's own dict, which carries its versions
    model.load_state_dict(own)


def about_images(card: ImageCard) -> dict[str, Any]:
    """Return what `Network` wants to know of its images: size, mean, std and transform."""
    size = None if card.size is None else tuple(card.size)
    mean, std = (None if value is None else tuple(value) for value in (card.mean, card.std))
    transform = partial(preprocess, size, mean, std)
    return {"size": size, "mean": mean, "std": std, "transform": transform}


def require_file(path: Path) -> Path:
    """Return a path at which there is a file.

    Raises:
        UnknownNameError: if there is none; says which files belong together.
    """
    if not os.path.isfile(path):
        raise UnknownNameError(
            f"{path}: there is no such file; NAME.safetensors goes with its card NAME.json, and a "
            "run's checkpoints with its config.yaml; weights of another project are given with the "
            "name of their network"
        )
    return path
