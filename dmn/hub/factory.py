"""Networks of one's own, by the name of the function or class that makes them."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from dmn.errors import DmnError, OptionError, UnknownNameError
from dmn.hub.building import fill
from dmn.hub.described import classes_described, images_described, require_one_per_output
from dmn.hub.network import Network
from dmn.io.options import require
from dmn.io.text import size_text
from dmn.io.weights import read_weights, truncate
from dmn.io.wrappers import drop_prefix
from dmn.nn import predict_logits

FORM = "package.module:factory"
SOURCE = "own"  # of weights that the factory itself has chosen
REMEDY = "is it of this network, and of as many classes (num_classes)?"


def is_factory(name: str) -> bool:
    """Return whether a name is of the form `package.module:factory`, which no path is."""
    return re.fullmatch(r"[^/\\:]+:[^/\\:]+", name) is not None


def load_factory(
    name: str,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | str | Path | None = None,
) -> Network:
    """Import a function or class, and load the network that it makes; see `dmn.load`.

    This executes the code that the name is of. The caller must have the name from the user, and
    never from a card or a checkpoint. The working directory is added to `sys.path`, as by
    `python -m`.

    Raises:
        UnknownNameError: if it cannot be imported.
        OptionError: if it fails, or makes no network; and if an option does not fit it.
        CheckpointError: if the weights cannot be read, or are of another network.
    """
    require("num_classes", num_classes, 1)
    images = images_described(name, size=size, mean=mean, std=std)
    names = classes_described(classes)
    state = None if weights is None else read_weights(weights)
    model = _make(name, num_classes, len(names))
    if state is not None:
        own = drop_prefix(state, model.state_dict().keys(), str(weights))
        fill(model, own, f"{weights} does not fit {name}", REMEDY)
    model.eval().requires_grad_(False)
    outputs = _count_outputs(name, model, images["size"]) or num_classes or len(names)
    require_one_per_output(names, outputs)
    return Network(
        name,
        model,
        names or tuple(map(str, range(outputs))),
        **images,
        card={"name": name, "factory": name},
        source=SOURCE if weights is None else Path(weights).name,
    )


def _make(name: str, num_classes: int | None, names: int) -> nn.Module:
    """Call the factory, with the number of classes if it is known and taken."""
    factory = _find(name)
    takes_count = _takes(factory, "num_classes")
    if num_classes is not None and not takes_count:
        raise OptionError(f"num_classes is {num_classes}, but {name} takes no such argument")
    count = num_classes or names
    try:
        model = factory(**({"num_classes": count} if count and takes_count else {}))
    except (Exception, SystemExit) as error:
        raise OptionError(f"{name} fails: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise OptionError(f"{name} makes a {type(model).__name__}; it must make a torch.nn.Module")
    if any(map(is_lazy, chain(model.parameters(), model.buffers()))):
        raise OptionError(f"{name} makes lazy layers; call the network once before it is returned")
    return model


def _find(name: str) -> Callable[..., Any]:
    """Import what a name is of.

    Raises:
        UnknownNameError: if there is no such thing.
        OptionError: if it makes nothing.
    """
    path, _, attribute = name.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:
        hint = f"; write {path.removesuffix('.py')}:{attribute}" if path.endswith(".py") else ""
        raise UnknownNameError(f"{name}: {path} is not imported: {_reason(error)}{hint}") from error
    try:
        factory: Callable[..., Any] = attrgetter(attribute)(module)
    except AttributeError as error:
        known = truncate(_defined(module)) or "no functions or classes"
        raise UnknownNameError(f"{name}: {path} has no {attribute!r}, but {known}") from error
    if isinstance(factory, nn.Module) or not callable(factory):
        kind = type(factory).__name__
        raise OptionError(f"{name} is a {kind}; give a function or a class that makes the network")
    return factory


def _defined(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]


def _takes(factory: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of some builtins
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _count_outputs(name: str, model: nn.Module, size: tuple[int, ...] | None) -> int:
    """Return the number of logits of an image, or 0 if that is not known."""
    if size is None:
        return 0
    try:
        with torch.no_grad():
            return predict_logits(model, torch.zeros(1, *size)).shape[1]
    except DmnError as error:
        raise OptionError(f"{name}: {error}") from error
    except Exception as error:
        raise OptionError(
            f"{name} fails at an image of size {size_text(size)}: {_reason(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    """Say in one line what was raised by a person's own code, and where in it."""
    message = " ".join(str(error).split())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__)
        and not frame.filename.startswith("<")
        and "site-packages" not in frame.filename
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{place}"
