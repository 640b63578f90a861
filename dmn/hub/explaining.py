"""How a network is explained where the user leaves it open: the layer, the streams, the options."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import safetensors.torch
import torch
from torch import Tensor

from dmn import __version__
from dmn.errors import OptionError, UnknownNameError
from dmn.explain import (
    Against,
    Explainer,
    Explanation,
    MethodSpec,
    SplitExplainer,
    Target,
    find_method,
    resolve_target,
)
from dmn.explain.layers import last_stage
from dmn.io.pictures import read_picture
from dmn.nn import Stream, predict_logits
from dmn.split import FrontAdapter

if TYPE_CHECKING:
    from dmn.hub.network import Network


class Method(NamedTuple):
    """A method that is ready to explain a network.

    Attributes:
        name: Of the method.
        explainers: By stream; of methods without streams one, of "g-h".
        settings: The options that it was made with.
        has_streams: Whether it reads g and h.
    """

    name: str
    explainers: dict[Stream, Explainer]
    settings: dict[str, Any]
    has_streams: bool

    @property
    def titles(self) -> dict[Stream, str]:
        """A title for each map."""
        return {
            stream: f"{self.name} {stream}" if self.has_streams else self.name
            for stream in self.explainers
        }


def stage_of(network: Network, x: Tensor, layer: str | None) -> str:
    """Return where class activation maps read a network: the layer, or else a late one.

    Args:
        network: The network.
        x: An image (1, C, H, W).
        layer: The layer that the user names.
    """
    return layer or last_stage(network.ordinary, x).removeprefix("h.net.")


def layer_at(network: Network, spec: MethodSpec, stage: str) -> str:
    """Return the name of a stage for a method; one that does not know g and h reads that of g."""
    trained = network.is_pair and not network.is_split
    return f"g.net.{stage}" if trained and spec.kind != "split" else stage


def make_method(
    network: Network,
    x: Tensor,
    spec: MethodSpec,
    stage: str,
    streams: Collection[Stream] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Method:
    """Make the explainers of a method, with what `dmn explain` sets by itself.

    Args:
        network: The network.
        x: An image (1, C, H, W).
        spec: A split or a post-hoc method.
        stage: Of `stage_of`.
        streams: Of split methods; all of trained pairs by default, of split networks the usual one.
        options: Of the method, which the user sets.

    Raises:
        UnknownNameError: for a class activation map of a network without a layer for it.
        OptionError: for an option that the method does not take, or a stream that does not exist.
        UnsupportedError: if the network cannot be split, and must be; lists the operations.
    """
    given = dict(options or {})
    if unknown := given.keys() - {*spec.options[1:], "layer"} | given.keys() & {"stream"}:
        known = ", ".join(name for name in spec.options[1:] if name != "stream")
        raise OptionError(f"{spec.name} takes no option {min(unknown)!r}; there are {known}")
    if missing := {*(streams or ())} - {*get_args(Stream)}:
        raise OptionError(f"no stream {min(missing)!r}; there are {', '.join(get_args(Stream))}")
    trained = network.is_pair and not network.is_split
    if spec.kind == "split":
        pair = network.as_pair(x)
        settings = _split_settings(spec, isinstance(pair, FrontAdapter), trained, stage) | given
        usual = get_args(Stream) if trained else (spec.defaults["stream"],)
        chosen = [each for each in get_args(Stream) if each in (streams or usual)]
        made: dict[Stream, Any] = {
            each: spec.factory(pair, stream=each, **settings) for each in chosen
        }
        for explainer in made.values():
            if isinstance(explainer, SplitExplainer):
                settings["layer"] = explainer.layer
        return Method(spec.name, {**made}, settings, True)
    given.pop("layer", None)  # which methods that read the image do without
    if spec.needs_layer:
        if stage == "input":
            raise UnknownNameError(
                f"{spec.name} reads a layer of the network that holds an image, and the "
                "last one holds none: name another by --layer, or other methods by --method"
            )
        given["layer"] = layer_at(network, spec, stage)
    return Method(spec.name, {"g-h": spec.factory(network.ordinary, **given)}, given, False)


def _split_settings(spec: MethodSpec, fronted: bool, trained: bool, stage: str) -> dict[str, Any]:
    """Return where and how a split method reads a pair, which may be the network's own."""
    settings = {} if trained else dict(spec.defaults)
    settings.pop("stream", None)
    if trained and spec.needs_layer and not fronted:
        settings["layer"] = stage
    if fronted:
        settings["part"] = "p"
    return settings


def weights_sha256(network: Network) -> str:
    """Return the SHA-256 of a network's weights as a .safetensors file, as cards have it."""
    state = network.model.state_dict()
    own = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    return hashlib.sha256(safetensors.torch.save(own)).hexdigest()


def find_rival(target: int | None, against: int | str | bool | None) -> Target:
    """Return what is explained: a class, or a class against its rival.

    Args:
        target: Index of the class, or None for the predicted one.
        against: The rival; True for the most probable one besides the target.
    """
    if against is None or against is False:
        return target
    return Against(target, None if against is True else against)


def complete(
    network: Network,
    x: Tensor,
    classes: Tensor,
    method: Method,
    maps: Mapping[Stream, Tensor],
    sha256: str,
    file: str | Path | None = None,
) -> Explanation:
    """Put an explanation together.

    Args:
        network: The network.
        x: The image (1, C, H, W).
        classes: Of `dmn.explain.resolve_target`: (1,), or with a rival (1, 2).
        method: What made the maps.
        maps: Maps (1, 1, H, W) by stream.
        sha256: Of `weights_sha256`.
        file: The image's file.
    """
    target, *rivals = classes.flatten().tolist()
    with torch.no_grad():
        logits = predict_logits(network.model, x)[0]
    name, digest = (None, None) if file is None else _reference(Path(file))
    return Explanation(
        x=x[0].detach().cpu(),
        image=network.restore(x)[0].detach().cpu(),
        logits=logits.cpu(),
        target=target,
        rival=rivals[0] if rivals else None,
        maps={stream: values[0].cpu() for stream, values in maps.items()},
        method=method.name,
        settings=method.settings,
        network=network.name,
        network_sha256=sha256,
        classes=network.classes,
        versions={"dmn": __version__, "torch": torch.__version__},
        picture=name,
        picture_sha256=digest,
    )


def _reference(file: Path) -> tuple[str, str]:
    """Return the name and the SHA-256 of a file."""
    return file.name, hashlib.sha256(file.read_bytes()).hexdigest()


def explain(
    network: Network,
    picture: Any,
    method: str,
    target: int | str | None,
    against: int | str | bool | None,
    streams: Collection[Stream] | None,
    options: Mapping[str, Any],
) -> Explanation:
    """Explain a class of a picture; see `dmn.hub.Network.explain`."""
    spec = find_method(method, "split", "post-hoc")
    file = picture if isinstance(picture, str | Path) else None
    image = network.transform(picture if file is None else read_picture(file))
    device = next((weight.device for weight in network.model.parameters()), image.device)
    x = network.check(image[None].to(device))
    stage = stage_of(network, x, options.get("layer"))
    made = make_method(network, x, spec, stage, streams, options)
    index = network.index(target) if isinstance(target, str) else target
    rival = network.index(against) if isinstance(against, str) else against
    wanted = find_rival(index, rival)
    maps = {stream: explainer(x, wanted) for stream, explainer in made.explainers.items()}
    classes = resolve_target(network.model, x, wanted)
    return complete(network, x, classes, made, maps, weights_sha256(network), file)
