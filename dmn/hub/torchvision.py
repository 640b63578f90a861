"""Classifiers of torchvision, with their preprocessing and the names of their classes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from dmn.errors import CheckpointError, UnknownNameError
from dmn.hub.building import fill
from dmn.hub.described import classes_described, images_described, require_one_per_output
from dmn.hub.network import Network
from dmn.io.options import require
from dmn.io.resources import checkpoint_names, newest_version, path_hint
from dmn.io.text import plain
from dmn.io.weights import read_state_dict
from dmn.io.wrappers import drop_prefix

log = logging.getLogger(__name__)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".pth.tar")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads that only training uses: never built
_ASSUMED = "pictures are prepared as for {}; if it was trained otherwise, give size, mean and std"
REMEDY = "its state_dict() does, if num_classes is None"
_RENAMED = (
    (r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2"),  # torchvision's own old files
    (r"\bmlp\.linear_1\.", "mlp.0."),  # as above, of vision transformers
    (r"\bmlp\.linear_2\.", "mlp.3."),
)


def load_torchvision(
    name: str,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | str | Path | None = None,
    **images: Sequence[float] | None,
) -> Network:
    """Load a classifier with weights by name, from a file, or random; see `dmn.load`.

    A file still called as torchvision calls it is preprocessed for as those weights ask, any other
    as the default ones; GoogLeNet and Inception have `transform_input` set for the first only. A
    file holds a state dict, as `read_state_dict` says; a `.safetensors` file may name "classes" in
    its metadata, a JSON list. `images` are size, mean and std; what is not given of them is as
    above.
    """
    require("num_classes", num_classes, 1)
    try:
        source, reference, path = _find(name, weights)
    except UnknownNameError as error:
        if version := newest_version(name):
            raise UnknownNameError(
                f"no network {name!r}; give a version of this run, such as {version}"
            ) from error
        shipped = ", ".join(checkpoint_names()) or "none"
        raise UnknownNameError(
            f"no network {name!r}{f' with weights {str(weights)!r}' if weights else ''}; give a "
            f"shipped one ({shipped}), a run's folder runs/NAME/version_K, a .safetensors file "
            "with its card or of dmn convert, package.module:factory of your own, timm:NAME, "
            "hf:FOLDER, or a classifier of torchvision's such as resnet18 or vgg16: "
            f"{error}{path_hint(name)}"
        ) from error
    model, labels = _load_model(name, reference, path, num_classes)
    outputs = len(_head(model)[1])
    names = classes_described(classes)
    require_one_per_output(names, outputs)
    card = {"name": name, "architecture": name, "weights": source, "preprocessing": reference.name}
    about = _about_images(reference)
    if images:
        known = {key: about[key] for key in ("size", "mean", "std")}
        about = images_described(name, **{**known, **images})
        card["preprocessing"] = None  # no longer any of torchvision's
    elif path and path.name != Path(reference.url).name:
        log.info(plain(f"{path.name}: {_ASSUMED.format(reference.name)}"))
    return Network(
        name,
        model.eval().requires_grad_(False),
        names or _classes(labels, outputs, reference, path),
        **about,
        card=card,
        source=source,
    )


def build(name: str, num_classes: int | None) -> nn.Module:
    """Build a classifier as `load_torchvision` does, with random weights.

    Raises:
        UnknownNameError: if there is no such architecture.
    """
    _, reference, _ = _find(name, None)
    return _build(name, reference, None, num_classes).eval()


def about_images(name: str, preprocessing: str) -> dict[str, Any]:
    """Return what `Network` wants to know of images: size, mean, std and transform.

    Args:
        name: Of the architecture.
        preprocessing: Name of those of torchvision's weights that images are preprocessed for.

    Raises:
        UnknownNameError: if there are no such weights.
    """
    table = models.get_model_weights(name).__members__
    if preprocessing not in table:
        raise UnknownNameError(f"{name} has no weights {preprocessing!r}, only {', '.join(table)}")
    return _about_images(table[preprocessing])


def _about_images(reference: Any) -> dict[str, Any]:
    transform: Any = reference.transforms()
    return {
        "size": (3, *transform.crop_size * 2),
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
        "transform": transform,
    }


def _find(name: str, weights: str | Path | None) -> tuple[str, Any, Path | None]:
    """Return the source, those of torchvision's weights to preprocess for, and the file."""
    known = models.list_models(module=models)
    if name.endswith(_SUFFIXES):
        raise UnknownNameError("a file of weights is given with the name of its network")
    if name not in known:
        close = ", ".join(get_close_matches(name.lower(), [*checkpoint_names(), *known])) or "none"
        every = "torchvision.models.list_models(torchvision.models)"
        raise UnknownNameError(f"no classifier {name!r}; close are {close}, and {every} lists all")
    table = models.get_model_weights(name)
    if weights is None:
        return "random", table.DEFAULT, None
    # those without categories are no classifier: the weights of their head are not numbers
    named = {key: value for key, value in table.__members__.items() if value.meta["categories"]}
    if weights in named:
        chosen = named[weights]
        return chosen.name, chosen, _cached(chosen.url)
    path = Path(weights)
    choices = f"{name} has {', '.join(named)}, and takes any {', '.join(_SUFFIXES)} file"
    if not path.name.endswith(_SUFFIXES):
        raise UnknownNameError(f"no weights {str(weights)!r}; {choices}")
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: there is no such file; {choices}")
    published = {Path(value.url).name: value for value in table}
    return path.name, published.get(path.name, table.DEFAULT), path


def _cached(url: str) -> Path:
    """Return the file of torchvision's weights in torch hub's folder, downloaded if need be."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    start = path.stem.rpartition("-")[2]  # torch hub ends names with the start of the hash
    if not os.path.isfile(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), start)
        except (OSError, HTTPException, RuntimeError) as error:  # the last is a wrong hash
            remedy = f"fetch {url} elsewhere and save it as {path}"
            raise CheckpointError(f"download failed ({error}); {remedy}") from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(start):
        raise CheckpointError(f"{path}: damaged, by its hash; delete it, or replace it by {url}")
    return path


def _load_model(
    name: str, reference: Any, path: Path | None, num_classes: int | None
) -> tuple[nn.Module, Any]:
    """Build a classifier and fill it from a file, if there is one; return it, and its labels."""
    state, labels = _read(path) if path else ({}, None)
    model = _build(name, reference, path, num_classes)
    if path:
        state = drop_prefix(state, model.state_dict().keys(), path)
        state = {key: state[key] for key in state if not key.startswith(_AUXILIARY)}
        key, head = _head(model)
        weight = state.get(key, head)
        if (
            num_classes is None
            and weight.shape[1:] == head.shape[1:]
            and 0 < len(weight) != len(head)
        ):
            model = _build(name, reference, path, len(weight))
        fill(model, state, f"{path} does not fit {name}", REMEDY)
    return model, labels


def _read(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the weights of a file, by the names of today, and the names of its classes if any."""
    state, metadata = read_state_dict(path)
    try:
        labels = json.loads(metadata.get("classes", "null"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be read: {error}") from error
    for pattern, new in _RENAMED:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state, labels


def _build(name: str, reference: Any, path: Path | None, num_classes: int | None) -> nn.Module:
    published = path is not None and path.name == Path(reference.url).name
    inception = {"aux_logits": False, "init_weights": False, "transform_input": published}
    transformer = {"image_size": reference.meta["min_size"][0]}
    table = {"googlenet": inception, "inception": inception, "vit": transformer}
    options = dict(table.get(name.split("_")[0], {}))
    options |= {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _head(model: nn.Module) -> tuple[str, Tensor]:
    """Return the weight of the classifier, the last layer, and its key."""
    layers = [item for item in model.named_modules() if isinstance(item[1], nn.Linear | nn.Conv2d)]
    name, layer = layers[-1]
    return f"{name}.weight", layer.weight


def _classes(labels: Any, outputs: int, reference: Any, path: Path | None) -> tuple[str, ...]:
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if labels is not None and not (named and len(labels) == outputs):
        raise CheckpointError(f"{path}: its metadata must name {outputs} classes in a list")
    names = labels or reference.meta["categories"] or ()
    return tuple(str(label) for label in (names if len(names) == outputs else range(outputs)))
