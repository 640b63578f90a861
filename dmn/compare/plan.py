"""What is compared: networks and, for each, the methods that explain it, with their settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.errors import OptionError, UnknownNameError
from dmn.explain import Explainer, MethodSpec, find_method, list_methods
from dmn.hub import Network, load
from dmn.hub.explaining import layer_at, stage_of
from dmn.split import FrontAdapter

Kind = Literal["self", "post-hoc", "control"]
Setting = dict[str, Any]
MethodTable = Mapping[str, Mapping[str, Mapping[str, Any] | None]]

METHOD = "method"  # option with the method's name, where the entry's title is another


@dataclass
class Source:
    """Where a network comes from; the arguments are those of `dmn.load`.

    Args:
        name: A shipped network, a `.safetensors` file with its card or of `dmn convert`, a run's
            folder or checkpoint, a classifier of torchvision, `timm:NAME`, `hf:FOLDER`, or
            `package.module:factory`, which is imported and called.
        weights: For the last four: a local file, or a name such as DEFAULT; None for random
            weights, or those in the folder.
        num_classes: For the same: number of outputs.
        size: For the same: channels, height and width of its images.
        mean: For the same: subtracted from each channel of images in [0, 1]; the data must
            have the same.
        std: For the same: what each channel is then divided by; the data must have the
            same.
        classes: For the same: names of its outputs.

    Examples:
        >>> from dmn.compare import Source
        >>> Source("mnist_paired").load("cpu").size
        (1, 28, 28)
    """

    name: str
    weights: str | None = None
    num_classes: int | None = None
    size: list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    classes: list[str] | None = None

    def load(self, device: torch.device | str) -> Network:
        """Load the network, onto a device."""
        network = load(**vars(self))
        network.model.to(device)
        return network


@dataclass(frozen=True)
class Entry:
    """One network explained by one method, in the best of several settings.

    Attributes:
        name: Unique name, made of the method's title and the network's label.
        network: Label of the network.
        title: The method's name in the comparison.
        method: The method's registered name.
        kind: "self" for split methods on a network trained as g - h, "control" for maps that do not
            depend on the network, "post-hoc" for all others.
        settings: Options to choose from.

    Examples:
        >>> from dmn.compare import Source, entries
        >>> networks = {"pair": Source("mnist_paired").load("cpu")}
        >>> methods = {"pair": {"SplitLRP": {"stream": ["g", "g-h"]}}}
        >>> entry = entries(methods, networks, budget=12)[0]
        >>> entry.name, entry.kind, entry.settings
        ('SplitLRP (pair)', 'self', ({'stream': 'g'}, {'stream': 'g-h'}))
    """

    name: str
    network: str
    title: str
    method: str
    kind: Kind
    settings: tuple[Setting, ...]

    def explainer(
        self, network: Network, setting: Setting, example: Tensor | None = None
    ) -> Explainer:
        """Return the method's explainer of a network in one setting.

        Args:
            network: The network with this entry's label.
            setting: One of `settings`.
            example: An image (1, C, H, W), on which the network is split, once for all entries. A
                class activation map whose setting names no layer reads a late one that is found on
                it.
        """
        spec = find_method(self.method)
        if spec.kind == "control":
            return spec.factory(**setting)
        explained = network.as_pair(example) if spec.kind == "split" else network.ordinary
        named = "layer" in setting or isinstance(explained, FrontAdapter)  # whose default is one
        if spec.needs_layer and not named and example is not None:
            stage = stage_of(network, example, None)
            setting = {"layer": layer_at(network, spec, stage), **setting}
        return spec.factory(explained, **setting)


def entries(methods: MethodTable, networks: Mapping[str, Network], budget: int) -> list[Entry]:
    """List the entries of a comparison, controls last.

    Args:
        methods: For each network its methods by their title, each with its options. If an option is
            a list, the best value is chosen. The option `method` names the method, if the title is
            another.
        networks: The networks by label.
        budget: The largest number of settings that a method may have.

    Raises:
        UnknownNameError: if a method does not exist; lists those that do.
        OptionError: if a method has more settings than the budget; names the entry.
    """
    listed = []
    for label, titles in methods.items():
        controls: dict[str, Setting] = {spec.name: {} for spec in list_methods("control")}
        for title, options in {**titles, **controls}.items():
            listed.append(_entry(label, networks[label], title, dict(options or {}), budget))
    return sorted(listed, key=lambda entry: entry.kind == "control")


def _entry(label: str, network: Network, title: str, options: Setting, budget: int) -> Entry:
    name = f"{title} ({label})"
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
    return Entry(name, label, title, spec.name, _kind(spec, network), settings)


def _kind(spec: MethodSpec, network: Network) -> Kind:
    """Return the kind of a method on one network: split methods are the pair's own explanation."""
    if spec.kind == "split":
        return "self" if network.is_pair and not network.is_split else "post-hoc"
    return spec.kind


def grid(options: Mapping[str, Any]) -> list[Setting]:
    """Return every combination of the values of options that are lists; others are kept."""
    lists = [value if isinstance(value, list) else [value] for value in options.values()]
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*lists)]


def as_text(setting: Setting) -> str:
    """Return a setting as JSON; equal settings give equal text."""
    return json.dumps(setting, sort_keys=True)
