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
from dmn.hub.network import Network
from dmn.hub.runs import load_checkpoint, load_run
from dmn.hub.shipped import load_shipped, load_with_card
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
FACTORY = Source(is_factory, load_factory, DESCRIPTION)
TORCHVISION = Source(lambda name: True, load_torchvision, DESCRIPTION)
SOURCES = (  # the first that takes a name has it
    Source(lambda name: name in checkpoint_names(), load_shipped),
    CONVERTED,
    Source(lambda name: Path(name).suffix == SUFFIX, load_with_card),
    Source(lambda name: Path(name).suffix == ".ckpt", load_checkpoint),
    Source(_is_run, load_run),
    FACTORY,
    TORCHVISION,
)
WHOSE = {  # to say in a refusal
    **dict.fromkeys(DESCRIPTION, f"torchvision's classifiers and networks of your own ({FORM})"),
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

    No code is executed, of any file; but a name with a colon, `package.module:factory`, asks for
    your own code, which is imported and called. Names inside cards and checkpoints never do.

    Args:
        name: One of
            - a shipped network, such as "scenes_resnet18";
            - a `.safetensors` file with its card beside it, of `save_network`;
            - a `.safetensors` file of `dmn convert` or `save_converted`;
            - the folder of a run, `runs/NAME/version_K`, or a `.ckpt` file in it;
            - a classifier of torchvision's, such as "resnet18";
            - `package.module:factory`, a function or class of your own that returns the network. It
              is called without arguments, but for `num_classes` if it takes that and it is known.
              The module is imported as by `python -m`, also from the working directory.
            A bare name is never that of a folder in the working directory, which is `./NAME`.
        weights: Of torchvision's classifiers and networks of your own: a file (`.safetensors`,
            `.pth`, `.pt`, `.ckpt`, `.pth.tar`) with their state dict, bare or as trainings save it;
            of torchvision's also a name such as "DEFAULT", downloaded unless in torch hub's folder.
            None for random ones, or those that your network is made with.
        num_classes: Outputs, of the same networks; None for as many as the weights of a classifier
            of torchvision's have, or as there are names in `classes`.
        model: Of converted files only: a network of the original's architecture, whose weights do
            not matter. It is needed where that is neither of torchvision's nor of `dmn.models`.
        size: Of torchvision's classifiers and networks of your own: channels, height and width that
            pictures are brought to. None for those of torchvision's weights; takes pictures as they
            are for a network of your own.
        mean: Likewise, subtracted from each channel of pictures in [0, 1]; None for those of
            torchvision's weights, or 0.
        std: Likewise, what each channel is then divided by; or 1.
        classes: Likewise, a name for each output, or a text file with one a line. None for "0",
            "1", ...; none at all for a network of your own if `size` and `num_classes` are not
            given either.

    Raises:
        UnknownNameError: if there is no such network, or it is none of dmn's; names what is.
        CheckpointError: if a file is missing or damaged, by its hash or its content, does not fit,
            or cannot be downloaded.
        OptionError: if an option is given that networks of this kind do not have, or does not fit;
            and if a factory of your own fails, or makes no network.
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
        return FACTORY if FACTORY.takes(name) else TORCHVISION
    if "model" in options and name.endswith(SUFFIX):
        return CONVERTED
    return next(source for source in SOURCES if source.takes(name))
