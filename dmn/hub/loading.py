"""One loader for every trained network, wherever it is from."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dmn.errors import OptionError
from dmn.hub.converted import is_converted, load_converted
from dmn.hub.factory import FORM, is_factory, load_factory
from dmn.hub.huggingface import is_huggingface, load_huggingface
from dmn.hub.network import Network
from dmn.hub.runs import load_checkpoint, load_run
from dmn.hub.shipped import load_shipped, load_with_card
from dmn.hub.timm import is_timm, load_timm
from dmn.hub.torchvision import load_torchvision
from dmn.io.resources import checkpoint_names, is_path

SUFFIX = ".safetensors"


class Source(NamedTuple):
    """A kind of name that networks are loaded by.

    Attributes:
        takes: Whether a name is of this kind.
        load: Loads the network by name and options.
        options: Those of `load`, besides the name.
    """

    takes: Callable[[str], bool]
    load: Callable[..., Network]
    options: tuple[str, ...] = ()


def _is_converted(name: str) -> bool:
    """Tell whether a file is a converted network's, or unreadable with no card to go with it."""
    if not name.endswith(SUFFIX) or not os.path.isfile(name):
        return False
    return is_converted(name) or not os.path.isfile(Path(name).with_suffix(".json"))


def _is_run(name: str) -> bool:
    return is_path(name) and os.path.isfile(Path(name, "config.yaml"))


CONVERTED = Source(_is_converted, load_converted, ("model",))
DESCRIPTION = ("weights", "num_classes", "size", "mean", "std", "classes")
OTHERS = (  # which take weights and a description; the first that takes a name has it
    Source(is_timm, load_timm, DESCRIPTION),
    Source(is_huggingface, load_huggingface, DESCRIPTION),
    Source(is_factory, load_factory, DESCRIPTION),
    Source(lambda name: True, load_torchvision, DESCRIPTION),
)
SOURCES = (  # likewise
    *OTHERS[:2],  # by their prefixes, whatever follows
    Source(lambda name: name in checkpoint_names(), load_shipped),
    CONVERTED,
    Source(lambda name: Path(name).suffix == SUFFIX, load_with_card),
    Source(lambda name: Path(name).suffix == ".ckpt", load_checkpoint),
    Source(_is_run, load_run),
    *OTHERS[2:],
)
WHOSE = {  # to say in a refusal
    **dict.fromkeys(
        DESCRIPTION,
        f"classifiers of torchvision, timm: and hf:, and networks of your own ({FORM})",
    ),
    "model": "files of save_converted",
}


@torch.inference_mode(False)  # weights made inside could not be differentiated
def load(
    name: str | Path,
    weights: str | Path | None = None,
    *,
    num_classes: int | None = None,
    model: nn.Module | None = None,
    size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | str | Path | None = None,
) -> Network:
    """Load a trained network, ready to classify and to be explained.

    The name is that of one of these:

    - a shipped network, such as "scenes_resnet18";
    - a `.safetensors` file with its card beside it, written by `save_network`;
    - a `.safetensors` file of `dmn convert` or `save_converted`;
    - the folder of a run, `runs/NAME/version_K`, or a `.ckpt` file in it;
    - a classifier of torchvision, such as "resnet18";
    - `timm:NAME`, a classifier of timm, such as "timm:vit_tiny_patch16_224", also with the tag of
      its weights (`pip install 'dmn[timm]'`);
    - `hf:FOLDER`, an image classifier of Hugging Face in a local folder as `save_pretrained` writes
      it, config.json, preprocessor_config.json and model.safetensors
      (`pip install 'dmn[huggingface]'`). Nothing is downloaded;
    - `package.module:factory`, a function or class of your own that returns the network. It is
      called without arguments, except for `num_classes` if it takes that and it is known. The
      module is imported as by `python -m`, also from the working directory.

    No code inside files is executed, and names inside cards and checkpoints cannot ask for your
    code.

    Args:
        name: As above. For a folder in the working directory give `./NAME`, because a bare name is
            never a folder.
        weights: For classifiers of torchvision, timm and Hugging Face and your own networks: a file
            (`.safetensors`, `.pth`, `.pt`, `.ckpt`, `.pth.tar`; of Hugging Face `.safetensors`
            only) with their state dict, bare or as trainings save it. For torchvision's and timm's
            also a name such as "DEFAULT", downloaded unless in torch hub's folder or Hugging Face's
            cache; for Hugging Face "random". None for random weights, those in the folder, or those
            that your network is made with.
        num_classes: Number of outputs, for the same networks. None for as many as the weights of a
            classifier have, or as there are names in `classes`.
        model: For converted files only: a network of the original's architecture, whose weights do
            not matter. It is needed if the original is neither torchvision's nor of `dmn.models`.
        size: For the same networks: channels, height and width that pictures are brought to. None
            for those that come with the weights; your own network then takes pictures as they are.
        mean: For the same networks: subtracted from each channel of pictures in [0, 1]. None for
            those that come with the weights, or 0.
        std: For the same networks: what each channel is then divided by. None for those that come
            with the weights, or 1.
        classes: For the same networks: a name for each output, or a text file with one name per
            line. None for those that come with the weights, or "0", "1", ...; or no names for a
            network of your own, if neither `size` nor `num_classes` is given.

    Returns:
        The network with its classes and its transform.

    Raises:
        UnknownNameError: if there is no such network; lists those that there are.
        CheckpointError: if a file is missing, damaged (by its hash or its content), does not fit,
            or cannot be downloaded; or if it asks for code.
        MissingPackageError: if timm or transformers is needed and not installed.
        UnsupportedError: if a folder of Hugging Face holds no image classifier.
        OptionError: if an option is given that networks of this kind do not have, or that does not
            fit; or if a factory of your own fails or returns no network.
    """
    name = name if isinstance(name, str) else os.path.join(os.curdir, name)
    named: dict[str, Any] = {"weights": weights, "num_classes": num_classes, "model": model}
    named |= {"size": size, "mean": mean, "std": std, "classes": classes}
    options = {option: value for option, value in named.items() if value is not None}
    source = _source(name, options.keys())
    for option in options:
        if option not in source.options:
            whose = WHOSE[option]
            raise OptionError(f"{option} is for {whose} only; leave it out for {name!r}")
    return source.load(name, **options)


def _source(name: str, options: Container[str]) -> Source:
    """Find the kind of a name; some options are of certain kinds only, whatever files there are."""
    if "weights" in options:
        return next(source for source in OTHERS if source.takes(name))
    if "model" in options and name.endswith(SUFFIX):
        return CONVERTED
    return next(source for source in SOURCES if source.takes(name))
