"""What is compared: networks, and the methods by which each is explained, with their settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.errors import OptionError, UnknownNameError
from dmn.explain import Explainer, MethodSpec, find_method, list_methods
from dmn.hub.networks import Network, load_network
from dmn.nn import Pair
from dmn.split import as_pair

Kind = Literal["self", "post-hoc", "control"]
Setting = dict[str, Any]
Wanted = Mapping[str, Mapping[str, Mapping[str, Any] | None]]

METHOD = "method"  # among an entry's options: whose they are, if not of the method it is called


@dataclass
class Source:
    """Where a network comes from.

    Args:
        name: A shipped network, a `.safetensors` file with its card, a run's folder or checkpoint,
            or a classifier of torchvision's.
        weights: Of torchvision's only: a name such as DEFAULT, or a local file; else random.
    """

    name: str
    weights: str | None = None


class Subject:
    """A network that is explained, and the pair it is or is split into.

    Args:
        label: What it is called in the comparison.
        network: The network.
        example: An image (1, C, H, W), on which it is split.
    """

    def __init__(self, label: str, network: Network, example: Tensor) -> None:
        self.label, self.network, self._example = label, network, example

    @classmethod
    def load(cls, label: str, source: Source, example: Tensor) -> Subject:
        """Load a network, onto the example's device."""
        network = load_network(source.name, source.weights)
        network.model.to(example.device)
        return cls(label, network, example)

    @cached_property
    def pair(self) -> Pair:
        """The network as g - h."""
        return as_pair(self.network.model, self._example)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the predicted classes (B,) of images (B, C, H, W)."""
        logits: Tensor = self.network.model(x)
        return logits.argmax(dim=1)


@dataclass(frozen=True)
class Entry:
    """One network explained by one method, in the best of some settings.

    Attributes:
        name: Of network and method; no two entries share it.
        network: Label of the network.
        title: What the method is called in the comparison.
        method: What it is called in the tables.
        kind: "self" for the split methods on a network trained as g - h, "control" for maps that
            know nothing of it, "post-hoc" for all others.
        settings: Options to choose from.
    """

    name: str
    network: str
    title: str
    method: str
    kind: Kind
    settings: tuple[Setting, ...]

    def explainer(self, subject: Subject, setting: Setting) -> Explainer:
        """Make the explainer of a network by the method, in one setting."""
        spec = find_method(self.method)
        if spec.kind == "control":
            return spec.factory(**setting)
        network = subject.pair if spec.kind == "split" else subject.network.model
        return spec.factory(network, **setting)


def entries(wanted: Wanted, subjects: Mapping[str, Subject], budget: int) -> list[Entry]:
    """List what is compared, controls last.

    Args:
        wanted: Network → what a method is called → its options. An option that is a list is chosen
            from it; `method` names the method, if it is called something else.
        subjects: The networks by label.
        budget: Most settings that a method is tried in.

    Raises:
        UnknownNameError: names the methods that there are.
        OptionError: names the entry.
    """
    made = []
    for label, methods in wanted.items():
        controls: dict[str, Setting] = {spec.name: {} for spec in list_methods("control")}
        for title, options in {**methods, **controls}.items():
            made.append(_entry(subjects[label], title, dict(options or {}), budget))
    return sorted(made, key=lambda entry: entry.kind == "control")


def _entry(subject: Subject, title: str, options: Setting, budget: int) -> Entry:
    name = f"{title} ({subject.label})"
    try:
        spec = find_method(options.pop(METHOD, title))
    except UnknownNameError as error:
        raise UnknownNameError(f"{name}: {error}") from None
    settings = tuple(grid(options))
    if len(settings) > budget:
        raise OptionError(
            f"{name}: {len(settings)} settings, but each method has {budget}; list fewer options, "
            "or raise `settings` for all"
        )
    return Entry(name, subject.label, title, spec.name, _kind(spec, subject), settings)


def _kind(spec: MethodSpec, subject: Subject) -> Kind:
    """Return what a method is on one network: the split methods explain pairs by themselves."""
    if spec.kind == "split":
        return "self" if subject.network.is_pair else "post-hoc"
    return spec.kind


def grid(options: Mapping[str, Any]) -> list[Setting]:
    """Return every combination of the options that are lists, the others as they are."""
    lists = [value if isinstance(value, list) else [value] for value in options.values()]
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*lists)]


def as_text(setting: Setting) -> str:
    """Write a setting as JSON, the same for equal ones."""
    return json.dumps(setting, sort_keys=True)
