"""What a configuration leaves to the data: classes, channels and size."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from jsonargparse import Namespace

from dmn.data import MNIST, ImageModule
from dmn.errors import DataError
from dmn.io.text import plain

VIEWS = {"paired": 2, "opposed": 2, "inverted": 1, "plain": 1}  # channels seen, per channel
DIFFERENCE = "dmn.models.DifferenceOfMonotone"
log = logging.getLogger(__name__)


def link_to_data(config: Any) -> None:
    """Write into a configuration what follows from its data, and log what changes.

    The names of the classes and their number, the channels of the first network that sees the
    images and, of `dmn.data.Folder`, channels and size. A network has them as the arguments
    `num_classes` and `in_channels`; of others, and for other data, nothing is changed.

    Args:
        config: The options of a subcommand, as jsonargparse has parsed them; changed in place.

    Raises:
        DataError: if there are less than two classes.
    """
    data = _data(config["data"])
    if data is None:
        return
    if isinstance(data, ImageModule):
        data.inspect()
    if not hasattr(data, "classes"):
        return
    for name in ("size", "channels"):
        if name in config["data"]["init_args"]:
            config["data"]["init_args"][name] = getattr(data, name)
    config["model"]["classes"] = list(data.classes)
    count = len(data.classes)
    if count < 2:
        raise DataError(
            f"the data has one class, {plain(data.classes[0])}; a classifier needs two at least; "
            "is data.root the folder that has a folder for each class?"
        )
    net = config["model"]["net"]
    changes = list(_link_channels(net, getattr(data, "channels", None), "model.net"))
    for arguments, path in [(config["model"], "model"), *_networks(net, "model.net")]:
        changes += _set(arguments, "num_classes", count, path)
    if changes:
        log.info(plain(f"set by the data: {', '.join(changes)}"))


def _data(spec: Any) -> Any:
    """Make the data module, if it is one whose images can be looked at before."""
    package, _, name = spec["class_path"].rpartition(".")
    kind = getattr(import_module(package), name)
    if not (isinstance(kind, type) and issubclass(kind, ImageModule | MNIST)):
        return None
    return kind(**spec["init_args"].as_dict())


def _networks(spec: Any, name: str) -> Iterator[tuple[Any, str]]:
    """Return arguments and path of a network, and of the g and h whose difference it is."""
    arguments = _arguments(spec)
    yield arguments, name
    for side in ("g", "h"):
        if side in arguments:
            yield _arguments(arguments[side]), f"{name}.{side}"


def _link_channels(spec: Any, channels: int | None, name: str) -> Iterator[str]:
    """Set the channels of the networks that see the image."""
    arguments = _arguments(spec)
    front = arguments.get("front")
    if front is not None:
        trunk = _arguments(front)
        yield from _set(
            _arguments(trunk.get("net", front)), "in_channels", channels, f"{name}.front"
        )
        return
    factor = VIEWS[arguments["inputs"]] if spec["class_path"] == DIFFERENCE else 1
    for network, path in _networks(spec, name):
        yield from _set(network, "in_channels", channels and factor * channels, path)


def _arguments(spec: Any) -> Any:
    return spec.get("init_args") or {} if isinstance(spec, Namespace) else {}


def _set(arguments: Any, name: str, value: int | None, path: str) -> Iterator[str]:
    """Set an argument that there is; return what changes."""
    if value is not None and arguments.get(name, value) != value:
        arguments[name] = value
        yield f"{path}.{name} {value}"
