"""Trained networks by name: shipped ones, runs of one's own, and torchvision's.

A shipped network is two files: its weights in NAME.safetensors, and its card NAME.json, which says
how it is built, trained and tested. Neither can execute code, and only networks of `dmn.models` are
built from what a card or a run's configuration says.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn import models
from dmn.errors import CheckpointError, UnknownNameError
from dmn.hub.cards import LARGEST_IMAGE, check_card, content_of, count_of_classes, read_card
from dmn.hub.pretrained import load
from dmn.io.resources import CHECKPOINTS, checkpoint_names, is_path, offer
from dmn.io.versions import package_versions
from dmn.io.weights import format_mismatches, limit_allocation, read_weights, state_dict_mismatches
from dmn.io.writing import write_whole
from dmn.nn import is_pair

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    f"dmn.models.{name}": getattr(models, name) for name in models.__all__
}
IMAGES: dict[str, dict[str, Any]] = {  # what a run's configuration does not say of its data
    "dmn.data.MNIST": {"channels": 1, "size": 28},
    "dmn.data.CIFAR10": {"size": 32},
}
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601, as Pillow's
PACKAGES = ("dmn", "torch", "pytorch-lightning", "quantus")
NOT_TRAINING = ("net", "explainers", "num_classes")  # of the task; told apart, or by the classes


@dataclass(frozen=True)
class Network:
    """A trained classifier, and what is needed to use it.

    Attributes:
        name: As it was asked for.
        model: The network, in eval mode, its parameters without gradient.
        classes: A name for each output.
        size: Channels, height and width of its images; None where that is not known.
        mean: Subtracted from each channel of images in [0, 1]; None for 0.
        std: What each channel is then divided by; None for 1.
        transform: From a picture (PIL, or a tensor (C, H, W), uint8 or in [0, 1]) to what the
            network takes, (C, H, W): grey if it has one channel, as small as `size` allows, cropped
            to the centre, normalised.
        card: What else is known of it.
    """

    name: str
    model: nn.Module = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    size: tuple[int, int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    transform: Callable[[Any], Tensor] = field(repr=False)
    card: dict[str, Any] = field(repr=False)

    @property
    def is_pair(self) -> bool:
        """Whether it is a difference g - h by itself."""
        return is_pair(self.model)

    def restore(self, x: Tensor) -> Tensor:
        """Undo the normalisation: images (B, C, H, W) in [0, 1] again."""
        return x * _channels(self.std, 1.0).to(x) + _channels(self.mean, 0.0).to(x)


@torch.inference_mode(False)  # weights made inside could not be differentiated
def load_network(name: str, weights: str | None = None) -> Network:
    """Load a trained network, ready to classify and to be explained.

    Args:
        name: A shipped network; the path of a `.safetensors` file with its card beside it; the
            folder of a run, `runs/NAME/version_K`, or a checkpoint in it; or a classifier of
            torchvision's. A folder in the working directory is `./NAME`, as a bare name is never
            its.
        weights: Of torchvision's classifiers only: a name such as "DEFAULT", a local file, or None
            for random; see `dmn.hub.load`.

    Raises:
        UnknownNameError: if there is no such network, or it is none of dmn's; names what is.
        CheckpointError: if a file is damaged, by its hash or its content.
        CheckpointError: if a file of weights cannot be read.
        CheckpointError: if torchvision's weights cannot be found.
        CheckpointError: if they do not fit.
    """
    path = Path(name)
    if weights is None and name in checkpoint_names():
        return _from_card(CHECKPOINTS / f"{name}.safetensors")
    if weights is None and path.suffix == ".safetensors":
        return _from_card(path)
    if weights is None and path.suffix == ".ckpt":
        return _from_run(path)
    if weights is None and is_path(name) and os.path.isfile(path / "config.yaml"):
        return _from_run(path / "checkpoints" / "best.ckpt")
    return _from_torchvision(name, weights)


def save_network(network: Network, folder: str | Path, **facts: Any) -> Path:
    """Save a network as a shipped one is: its weights and its card, each whole or not at all.

    Args:
        network: Of `load_network`, from a run or another card.
        folder: Where to; the files are called after the network's name.
        **facts: What the card is to say besides, such as `accuracy` and `command`.

    Returns:
        The file of weights.

    Raises:
        UnknownNameError: if it is not known how the network is built.
        WriteError: if a file cannot be written.
    """
    if "net" not in network.card:
        raise UnknownNameError(f"{network.name} is not of dmn.models, and gets no card")
    state = {key: value.detach().clone() for key, value in network.model.state_dict().items()}
    content = safetensors.torch.save({key: value.contiguous() for key, value in state.items()})
    known = {each: getattr(network, each) for each in ("name", "classes", "size", "mean", "std")}
    versions = package_versions(PACKAGES)
    digest = hashlib.sha256(content).hexdigest()
    card = {**network.card, **known, **facts, "versions": versions, "sha256": digest}
    path = Path(folder, f"{network.name}.safetensors")
    write_whole(path, content)
    write_whole(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return path


def _from_card(path: Path) -> Network:
    told = path.with_suffix(".json")
    card = read_card(_found(told))
    if hashlib.sha256(content_of(_found(path))).hexdigest() != card.get("sha256"):
        raise CheckpointError(f"{path}: damaged, by the hash on its card")
    return _built(path.stem, card, told, path)


def _from_run(checkpoint: Path) -> Network:
    told_by = checkpoint.parent.parent / "config.yaml"
    config = read_card(_found(told_by))
    try:
        data, task = config["data"], config["model"]
        told = {**IMAGES.get(data["class_path"], {}), **data.get("init_args", {})}
        side = told.get("size")
        card = {
            "name": config["run"]["name"],
            "net": task["net"],
            "training": {key: task[key] for key in task if key not in NOT_TRAINING},
            "explainers": task.get("explainers"),
            "data": data,
            "classes": [str(label) for label in range(count_of_classes(task["num_classes"]))],
            "size": side and [told.get("channels", 3), side, side],
            "mean": told.get("mean"),
            "std": told.get("std"),
            "epochs": config["trainer"]["max_epochs"],
            "seed": config["seed_everything"],
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{told_by}: no run's: {error!r}") from error
    return _built(str(checkpoint), card, told_by, checkpoint)


def _from_torchvision(name: str, weights: str | None) -> Network:
    try:
        pretrained = load(name, weights)
    except UnknownNameError as error:
        shipped = ", ".join(checkpoint_names()) or "none"
        raise UnknownNameError(
            f"no network {name!r}{f' with weights {weights!r}' if weights else ''}; give a shipped "
            f"one ({shipped}), a run's folder runs/NAME/version_K, a .safetensors file with its "
            f"card, or a classifier of torchvision's such as resnet18 or vgg16: {error}"
            + offer(name)
        ) from error
    about: Any = pretrained.transform
    return Network(
        name,
        pretrained.model.requires_grad_(False),
        pretrained.classes,
        (3, *about.crop_size * 2),
        tuple(about.mean),
        tuple(about.std),
        pretrained.transform,
        {"name": name, "weights": pretrained.source},
    )


def _built(name: str, card: dict[str, Any], told_by: Path, path: Path) -> Network:
    """Build the network that a card tells of, and fill it from a file."""
    check_card(card, told_by)
    state = read_weights(path)
    try:
        with limit_allocation(path, state):
            model = _build(card["net"])
        faults = state_dict_mismatches(model.state_dict(), state)
    except UnknownNameError as error:
        raise UnknownNameError(f"{path}: {error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # a card that was tampered with raises anything
        told = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: does not fit what is said of it: {told}") from error
    if faults:
        raise CheckpointError(
            f"{path}: does not fit what is said of it: {format_mismatches(faults)}"
        )
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
    size, mean, std = (card[key] and tuple(card[key]) for key in ("size", "mean", "std"))
    transform = partial(_transform, size, mean, std)
    return Network(name, model, tuple(card["classes"]), size, mean, std, transform, card)


def _build(told: Any) -> Any:
    """Build what is told by class path and arguments, of networks of dmn only; leave all else."""
    if not isinstance(told, dict) or "class_path" not in told:
        return told
    path = told["class_path"]
    if path not in NETWORKS:
        raise UnknownNameError(f"{path!r} is not built, only {', '.join(NETWORKS)}")
    options = told.get("init_args") or {}
    return NETWORKS[path](**{key: _build(value) for key, value in options.items()})


def _found(path: Path) -> Path:
    if not os.path.isfile(path):
        raise UnknownNameError(
            f"{path}: there is no such file; NAME.safetensors goes with its card NAME.json, and a "
            "run's checkpoints with its config.yaml"
        )
    return path


def _transform(
    size: tuple[int, int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    picture: Any,
) -> Tensor:
    if not isinstance(picture, Tensor):
        picture = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    x: Tensor = picture / 255 if picture.dtype == torch.uint8 else picture.float()
    if size is not None:
        channels, *sides = size
        if channels == 1 and len(x) == 3:
            x = (x * _channels(LUMINANCE, 0.0)).sum(0, keepdim=True)
        x = _cropped(x.expand(channels, -1, -1), *sides)
    return (x - _channels(mean, 0.0)) / _channels(std, 1.0)


def _cropped(x: Tensor, height: int, width: int) -> Tensor:
    """Resize an image so that it just covers a size, and cut its centre out.

    Where the whole image would get too large, its centre is cut out first.
    """
    scale = max(height / x.shape[1], width / x.shape[2])
    covering = [max(round(x.shape[1] * scale), height), max(round(x.shape[2] * scale), width)]
    if len(x) * math.prod(covering) > LARGEST_IMAGE:
        needed = [math.ceil(side / scale) for side in (height, width)]
        x = _centre(x, min(needed[0], x.shape[1]), min(needed[1], x.shape[2]))
        covering = [height, width]
    x = F.interpolate(x[None], covering, mode="bilinear", antialias=True)[0]
    return _centre(x, height, width)


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


def _channels(values: tuple[float, ...] | None, default: float) -> Tensor:
    return torch.tensor(values or (default,)).view(-1, 1, 1)
