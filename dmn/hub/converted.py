"""Canonized and split networks: saved with all that rebuilds them, loaded without running code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from dmn.canonize import canonize, folding_report
from dmn.errors import (
    CheckpointError,
    MissingPackageError,
    NeedsExampleError,
    UnsupportedError,
)
from dmn.hub import building, huggingface, processors, timm, torchvision
from dmn.hub.cards import ImageCard, Size, validate_card
from dmn.hub.network import Network
from dmn.io.weights import (
    format_mismatches,
    limit_allocation,
    read_file,
    state_dict_mismatches,
    truncate,
    validate_state_dict,
)
from dmn.io.writing import write_whole
from dmn.rules.linear import SLACK
from dmn.split.build import split
from dmn.split.certificate import Certificate
from dmn.split.model import SplitModel

FORMAT = "dmn.converted/2"
SOURCE = "converted"


class Conversion(ImageCard):
    """What a converted network's file says of it. The descriptions say what a field must be.

    Attributes:
        canonized: Whether it has no BatchNorm.
        example: Channels, height and width of the images that it was canonized with, or None.
        split: The options of `split`, where it was split.
        architecture: torchvision's name of the original, or `timm:NAME`, or None.
        preprocessing: Name of those of torchvision's weights that images are preprocessed for, or
            timm's name with the tag of the weights.
        huggingface: "config" and "preprocessor" of Hugging Face's files, or None.
        net: Class path and arguments of the original, of `dmn.models`, or None.
        factory: Name of what made the original, of a person's own code; never imported.
        classes: A name for each output, or none.
        operations: What the graph calls.
        certificate: What was proved of it, as JSON.
    """

    canonized: bool = Field(description="true or false")
    example: Size | None = Field(None, description="channels, height and width, or null")
    split: dict[str, Any] | None = Field(description="options of split, or null")
    architecture: str | None = Field(description="a name of torchvision's or timm's, or null")
    preprocessing: str | None = Field(description="a name of weights, or null")
    huggingface: dict[str, Any] | None = Field(None, description="two configurations, or null")
    net: dict[Any, Any] | None = Field(description="a class path and its arguments, or null")
    factory: str | None = Field(None, description="a name, or null")
    classes: list[str] = Field(description="a list of names")
    operations: list[str] = Field(description="a list of names")
    certificate: str | None = Field(description="a text, or null")


def save_converted(
    network: nn.Module,
    path: str | Path,
    *,
    original: Network | None = None,
    classes: Sequence[str] = (),
    canonized: bool = False,
) -> Path:
    """Save a canonized or split network: its weights, how it was made, and its certificate.

    The file is written whole or not at all. `dmn.load` and every command read it.

    Args:
        network: Returned by `canonize` or `split`.
        path: A `.safetensors` file.
        original: The network that was converted, loaded by `dmn.load`. With it, the file can be
            loaded by itself; without it, loading needs a model of the same architecture.
        classes: A name for each output; those of `original` by default.
        canonized: Whether a split network was canonized first.

    Returns:
        The path.

    Raises:
        CheckpointError: if the path does not end with `.safetensors`.
        UnsupportedError: if the original was converted itself.
        WriteError: if the file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise CheckpointError(f"{path}: give a name that ends with .safetensors")
    if original is not None:
        refuse_converted(original)
    graph: Any = network.network if isinstance(network, SplitModel) else network
    canonized = canonized or not isinstance(network, SplitModel)
    shape = folding_report(graph).example_shape if canonized else None
    about = {
        "canonized": canonized,
        "example": shape and shape[1:],
        "split": network.options._asdict() if isinstance(network, SplitModel) else None,
        **_origin(original),
        "classes": list(classes or (original.classes if original else ())),
        "operations": _operations(graph),
        "certificate": None,
    }
    if isinstance(network, SplitModel) and network.certified:
        about["certificate"] = network.certified.to_json()
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in graph.state_dict().items()
    }
    metadata = {"format": FORMAT, "about": json.dumps(about)}
    return write_whole(path, safetensors.torch.save(weights, metadata))


def refuse_converted(network: Network) -> None:
    """Refuse to convert a network again.

    Raises:
        UnsupportedError: if it is a converted one.
    """
    if network.source == SOURCE:
        raise UnsupportedError(
            f"{network.name} is converted already; convert the network that it was made of"
        )


def is_converted(path: str | Path) -> bool:
    """Return whether a file is one of `save_converted`, by its metadata."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("format", "")
    except (OSError, safetensors.SafetensorError):
        return False
    return str(found).startswith(FORMAT.partition("/")[0] + "/")


def read_original_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the weights of the network that a split one was made of, from its file.

    Raises:
        CheckpointError: if it holds no converted network, or a canonized one, of which the original
            cannot be had back.
    """
    about, weights = _read(Path(path))
    if about.canonized:
        raise CheckpointError(
            f"{path}: canonized, its BatchNorm is within other weights; start from the network it "
            "was made of, or from its split form"
        )
    return {key: value for key, value in weights.items() if not key.endswith(SLACK)}


def load_converted(path: str | Path, model: nn.Module | None = None) -> Network:
    """Load a converted network; see `dmn.load`."""
    path = Path(path)
    about, weights = _read(path)
    if model is None and not (about.architecture or about.net or about.huggingface):
        raise CheckpointError(f"{path} {_way_out(about.factory)}")
    try:
        with limit_allocation(path, weights):
            original, network, graph = _built(model, about)
        images = _about_images(about)
        if isinstance(network, SplitModel):
            _restore_split(network, about, weights)
    except MissingPackageError:
        raise
    except Exception as error:  # metadata that was tampered with raises anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is damaged, or of another model: {reason}") from error
    name = type(original).__name__
    if faults := state_dict_mismatches(graph.state_dict(), weights):
        raise CheckpointError(
            f"{path} does not fit {name}: {format_mismatches(faults)}; {_advice(about)}"
        )
    if _operations(graph) != about.operations:
        raise CheckpointError(
            f"{path} does not fit {name}: the same weights, but other operations; {_advice(about)}"
        )
    kinds = [value.dtype for value in weights.values() if value.is_floating_point()]
    graph.to(kinds[0] if kinds else None)
    graph.load_state_dict(weights)
    network.eval().requires_grad_(False)
    card = {"name": path.stem, "converted": about.model_dump()}
    return Network(path.stem, network, tuple(about.classes), **images, card=card, source=SOURCE)


def _advice(about: Conversion) -> str:
    """Say what may have gone wrong where a file does not fit."""
    if about.canonized and "example" not in about.model_fields_set:
        return (
            "it was canonized by an earlier version of dmn, which left norms and layer scales; "
            "convert the original again"
        )
    return "is it of the same architecture?"


def _way_out(factory: str | None) -> str:
    """Say how to load a file that does not tell how its network is built."""
    if factory is None:
        return "names no architecture; pass a model of the original's"
    name = truncate([factory])
    return (
        f"is of {name}, and no file has code imported; use dmn.load(FILE, model=...) with what "
        f"that makes, or give commands {name} itself, with its --weights"
    )


def _origin(original: Network | None) -> dict[str, Any]:
    """Write down what rebuilds a network, and what its images are like."""
    card = original.card if original else {}
    origins = ("architecture", "preprocessing", "huggingface", "net", "factory")
    return {
        **{name: card.get(name) for name in origins},
        **{name: getattr(original, name, None) for name in ("size", "mean", "std")},
    }


def _about_images(about: Conversion) -> dict[str, Any]:
    if about.huggingface and about.huggingface["preprocessor"]:
        return processors.about_images(**about.huggingface)
    if about.architecture and about.preprocessing:
        if timm.is_timm(about.architecture):
            return timm.about_images(about.preprocessing)
        return torchvision.about_images(about.architecture, about.preprocessing)
    return building.about_images(about)


def _built(model: nn.Module | None, about: Conversion) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the original's architecture, its conversion, and the graph that has the weights."""
    if model is not None:
        return model, *_rebuilt(model, about)
    model = _original(about)
    network, graph = _rebuilt(model, about)
    if hasattr(model, "transform_input") and _operations(graph) != about.operations:
        # goes with the weights, see load_torchvision
        vars(model)["transform_input"] = not model.transform_input
        network, graph = _rebuilt(model, about)
    return model, network, graph


def _original(about: Conversion) -> nn.Module:
    """Build what a file says, from dmn's, torchvision's, timm's or transformers' code only."""
    classes = len(about.classes) or None
    if about.huggingface:
        return huggingface.build(about.huggingface["config"])
    if about.architecture is None:
        return building.build(about.net).eval()
    if timm.is_timm(about.architecture):
        return timm.build(about.architecture, classes, about.size)
    return torchvision.build(about.architecture, classes)


def _rebuilt(model: nn.Module, about: Conversion) -> tuple[nn.Module, nn.Module]:
    """Convert a model as another was; returns it, and the graph that has its weights."""
    try:
        return _convert(model, about, _images(model, about.example) if about.example else None)
    except NeedsExampleError:
        if about.size is None:
            raise
        return _convert(model, about, _images(model, about.size))


def _images(model: nn.Module, size: list[int]) -> Tensor:
    """Return images of a size, and of the type of the weights; only their shape counts."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.linspace(-1, 1, 2 * prod(size)).view(2, *size).to(like)


def _convert(
    model: nn.Module, about: Conversion, example: Tensor | None = None
) -> tuple[nn.Module, nn.Module]:
    graph: nn.Module = canonize(model, example) if about.canonized else model
    if about.split is None:
        return graph, graph
    options = {name: about.split[name] for name in ("pool", "theta", "threshold")}
    network = split(graph, example, **options)
    return network, network.network


def _restore_split(network: SplitModel, about: Conversion, weights: dict[str, Tensor]) -> None:
    if any(key.endswith(SLACK) for key in weights):
        network.relax_bounds()
    if about.certificate:
        network.certified = Certificate.from_json(about.certificate)
        network.name = str(network.certified) and network.certified.network


def _operations(graph: Any) -> list[str]:
    """Name what a graph calls, which its weights alone do not tell."""
    return [str(getattr(node.target, "__name__", node.target)) for node in graph.graph.nodes]


def _read(path: Path) -> tuple[Conversion, dict[str, Tensor]]:
    try:
        content, metadata = read_file(path)
        weights = validate_state_dict(content, path)
    except CheckpointError as error:
        raise CheckpointError(f"cannot read {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} holds no converted network, as this version of dmn writes them by `dmn "
            "convert` and save_converted; a file of weights needs its card, "
            f"{path.with_suffix('.json').name}, beside it"
        )
    try:
        values = json.loads(metadata["about"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its metadata cannot be read") from error
    try:
        return validate_card(Conversion, values, "its metadata"), weights
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
