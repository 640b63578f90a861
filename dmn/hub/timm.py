"""Classifiers of timm, with their preprocessing and the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dmn.errors import CheckpointError, OptionError, UnknownNameError, required
from dmn.hub.building import fill
from dmn.hub.described import classes_described, images_described, require_one_per_output
from dmn.hub.network import Network
from dmn.hub.preprocess import as_picture
from dmn.io.options import require
from dmn.io.text import one_line
from dmn.io.weights import read_weights
from dmn.io.wrappers import drop_prefix

PREFIX = "timm:"
FILE = "model.safetensors"  # of weights that are published
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".pth.tar")
REMEDY = "is it of this network, and of as many classes (num_classes)?"


@dataclass(frozen=True)
class Prepared:
    """timm's own transform, of tensors too.

    Args:
        transform: Of `timm.data.create_transform`.
    """

    transform: Any

    def __call__(self, picture: Any) -> Tensor:
        """Return a picture as the network takes it, (C, H, W)."""
        image: Tensor = self.transform(as_picture(picture))
        return image


def is_timm(name: str) -> bool:
    """Return whether a name is of the form `timm:NAME`."""
    return name.startswith(PREFIX)


def load_timm(
    name: str,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | str | Path | None = None,
    **images: Sequence[float] | None,
) -> Network:
    """Load a classifier of timm with weights by name, from a file, or random; see `dmn.load`.

    Args:
        name: `timm:NAME` or `timm:NAME.TAG`, where the tag is of published weights. It chooses the
            preprocessing, and what "DEFAULT" means.
        weights: "DEFAULT", a tag, a file, or None for random.
        num_classes: Of the head; None for as many as the weights have.
        classes: A name for each output.
        **images: size, mean and std; what is not given of them is the published weights'.

    Raises:
        MissingPackageError: without timm.
        UnknownNameError: if there is no such network, or no such weights; names those that are
            close.
        CheckpointError: if weights cannot be read or downloaded, or are of another network.
        OptionError: if it has no classes, or fails with what is given.
    """
    require("num_classes", num_classes, 1)
    images_described(name, **{"size": None, "mean": None, "std": None, **images})
    chosen, source, path = _find(name, weights)
    state = {} if path is None else read_weights(path)
    model: Any = _build(chosen, num_classes, images.get("size"))
    if path is not None:
        model, state = _of_as_many(model, state, path, chosen, num_classes, images.get("size"))
        fill(model, state, f"{path} does not fit {name}", REMEDY)
    outputs: int = model.num_classes
    if not outputs:
        raise OptionError(
            f"{name} returns features and has no classes; give num_classes and weights of a head"
        )
    names = classes_described(classes)
    require_one_per_output(names, outputs)
    about = _about_images(model.pretrained_cfg)
    card = {"name": name, "architecture": name, "weights": source, "preprocessing": chosen}
    if images:
        known = {key: about[key] for key in ("size", "mean", "std")}
        about = images_described(name, **{**known, **images})
        del card["preprocessing"]  # no longer timm's
    return Network(
        name,
        model.eval().requires_grad_(False),
        names or _classes(model, outputs),
        **about,
        card=card,
        source=source,
    )


def build(name: str, num_classes: int | None, size: Sequence[int] | None) -> nn.Module:
    """Build a classifier as `load_timm` does, with random weights.

    Raises:
        UnknownNameError: if there is no such architecture.
    """
    return _build(_find(name, None)[0], num_classes, size).eval()


def about_images(name: str) -> dict[str, Any]:
    """Return what `Network` wants to know of images: size, mean, std and transform.

    Args:
        name: NAME or NAME.TAG of timm.

    Raises:
        UnknownNameError: if there is no such network.
    """
    chosen, _, _ = _find(PREFIX + name, None)
    with required("timm", "timm"):
        from timm.models import get_pretrained_cfg
    cfg = get_pretrained_cfg(chosen)
    return _about_images(cfg.to_dict() if cfg else {})


def _find(name: str, weights: str | Path | None) -> tuple[str, str, Path | None]:
    """Return timm's own name, the source of the weights, and their file."""
    with required("timm", "timm"):
        from timm.models import get_pretrained_cfg, list_models, list_pretrained
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if architecture not in (known := list_models()):
        close = get_close_matches(architecture.lower(), known, n=5)
        near = ", ".join(PREFIX + each for each in close) or "none"
        raise UnknownNameError(
            f"no network {name!r}; close are {near}, and timm.list_models() lists all"
        )
    tags = [each.partition(".")[2] for each in list_pretrained(f"{architecture}.*")]
    has = f"{PREFIX}{architecture} has {', '.join(tags) or 'none'}"
    if tag and tag not in tags:
        raise UnknownNameError(f"no weights {tag!r}; {has}")
    if weights is None:
        return f"{architecture}.{tag}" if tag else architecture, "random", None
    text = str(weights)
    if text in tags or (text == "DEFAULT" and tags):
        cfg = get_pretrained_cfg(f"{architecture}.{tag if text == 'DEFAULT' else text}".strip("."))
        chosen = f"{architecture}.{cfg.tag}"
        return chosen, cfg.tag, _published(chosen, cfg)
    choices = f"{has}, and takes any {', '.join(SUFFIXES)} file"
    if not text.endswith(SUFFIXES):
        raise UnknownNameError(f"no weights {text!r}; {choices}")
    return f"{architecture}.{tag}" if tag else architecture, Path(weights).name, Path(weights)


def _published(name: str, cfg: Any) -> Path:
    """Return the file of published weights in Hugging Face's cache, downloaded if need be."""
    with required("huggingface_hub", "timm"):
        from huggingface_hub import (
            get_hf_file_metadata,
            hf_hub_download,
            hf_hub_url,
            try_to_load_from_cache,
        )
    if not cfg.hf_hub_id:
        raise CheckpointError(
            f"{name} is not published as safetensors; fetch {cfg.url}, and give its state dict as "
            "a file by weights"
        )
    repo, _, revision = cfg.hf_hub_id.partition("@")
    where: dict[str, Any] = {"repo_id": repo, "filename": FILE, "revision": revision or None}
    cached = try_to_load_from_cache(**where)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(**where)
    try:
        get_hf_file_metadata(url)  # which fails at once where there is no connection
        return Path(hf_hub_download(**where))
    except Exception as error:  # of the connection, the server, the disk: each library's own
        remedy = f"fetch {url} elsewhere, and give the file by weights"
        raise CheckpointError(f"download failed ({one_line(error)}); {remedy}") from error


def _build(name: str, num_classes: int | None, size: Any) -> nn.Module:
    """Build a network, for images of other channels, or of another size where it is fixed."""
    with required("timm", "timm"):
        from timm import create_model
        from timm.models import get_pretrained_cfg
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if size is not None and size[0] != 3:
        options["in_chans"] = size[0]
    cfg = get_pretrained_cfg(name)
    if size is not None and cfg and cfg.fixed_input_size and tuple(size) != tuple(cfg.input_size):
        options["img_size"] = tuple(size[1:])
    try:
        model: nn.Module = create_model(name, pretrained=False, **options)
    except Exception as error:  # of what timm's networks do not take
        given = ", ".join(f"{key}={value}" for key, value in options.items()) or "no options"
        raise OptionError(f"{PREFIX}{name} is not built with {given}: {one_line(error)}") from error
    return model


def _of_as_many(
    model: Any,
    state: dict[str, Tensor],
    path: Path,
    name: str,
    num_classes: int | None,
    size: Any,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the network with a head for as many classes as a file has, and the file's weights."""
    state = drop_prefix(state, model.state_dict().keys(), path)
    classifier = model.pretrained_cfg.get("classifier")
    head = classifier if isinstance(classifier, str) else next(iter(classifier or ()), "")
    weight = state.get(f"{head}.weight")
    if num_classes is None and weight is not None and len(weight) != model.num_classes:
        model = _build(name, len(weight), size)
    return model, state


def _about_images(cfg: dict[str, Any]) -> dict[str, Any]:
    with required("timm", "timm"):
        from timm.data import create_transform, resolve_data_config
    data = resolve_data_config(pretrained_cfg=cfg)
    return {
        "size": tuple(data["input_size"]),
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "transform": Prepared(create_transform(**data)),
    }


def _classes(model: Any, outputs: int) -> tuple[str, ...]:
    """Return the names of classes that weights of this network are published with, or numbers."""
    with required("timm", "timm"):
        from timm.data import ImageNetInfo, infer_imagenet_subset
    cfg = model.pretrained_cfg
    if cfg.get("label_names") and len(cfg["label_names"]) == outputs:
        described = cfg.get("label_descriptions") or {}
        return tuple(str(described.get(name, name)) for name in cfg["label_names"])
    subset = infer_imagenet_subset(model)
    if subset is None:
        return tuple(map(str, range(outputs)))
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(outputs))
