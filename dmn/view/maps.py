"""What a page shows of an image: its logits, and a map of each likely class."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmn.errors import DataError
from dmn.evaluate import score
from dmn.explain import Explainer, Explanation, find_method
from dmn.hub import Network
from dmn.hub.explaining import Method, make_method, stage_of
from dmn.nn import Stream, predict_logits

BATCH = 32  # classes explained at once
SCORES = ("Sparseness", "PixelFlipping")
LEVELS = 2**15 - 1  # to which maps are rounded, of their largest magnitude


class Shown(NamedTuple):
    """A method in one setting, which explains a network by one or more streams.

    Attributes:
        method: The method.
        alpha: Its shift, where several are shown.
    """

    method: Method
    alpha: float | None


def make_shown(
    network: Network,
    x: Tensor,
    methods: Sequence[str],
    layer: str | None,
    alphas: Sequence[float],
) -> list[Shown]:
    """Make the methods that a page shows, each with every alpha.

    Args:
        network: The network.
        x: An image (1, C, H, W).
        methods: Names of split methods.
        layer: Where to read; None for the default of `dmn explain`.
        alphas: Shifts of a split network; none for the methods' own.

    Raises:
        UnknownNameError: for a method or a layer that does not exist.
        OptionError: for shifts of a network that was trained as g - h.
    """
    given: dict[str, Any] = {} if layer is None else {"layer": layer}
    stage = stage_of(network, x, layer)
    made = []
    for name in methods:
        spec = find_method(name, "split")
        for alpha in alphas or (None,):
            options = given if alpha is None else {**given, "alpha": alpha}
            made.append(Shown(make_method(network, x, spec, stage, None, options), alpha))
    return made


def describe_methods(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return the methods with their streams and alphas, as the page takes them."""
    described: dict[str, dict[str, Any]] = {}
    for method, alpha in shown:
        entry = described.setdefault(
            method.name,
            {"name": method.name, "streams": [*method.explainers], "alphas": []},
        )
        entry["alphas"].append(alpha)
    return [*described.values()]


@torch.no_grad()
def describe_image(network: Network, x: Tensor, shown: Sequence[Shown], top: int) -> dict[str, Any]:
    """Return an image's logits, and the maps of its most probable classes.

    Args:
        network: The network.
        x: An image (1, C, H, W), as the network takes it.
        shown: The methods.
        top: How many classes.

    Returns:
        `logits`, `classes`, the explained ones, and `maps`: by method, alpha's place and stream.

    Raises:
        DataError: if logits or maps are not finite.
    """
    logits = predict_logits(network.model, x)[0]
    _require_finite("logits", logits)
    classes = logits.topk(min(top, len(logits))).indices
    maps: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    for method, _ in shown:
        place = places[method.name] = places.get(method.name, -1) + 1
        for stream, explainer in method.explainers.items():
            maps[f"{method.name}/{place}/{stream}"] = pack(class_maps(explainer, x, classes))
    return {"logits": logits.tolist(), "classes": classes.tolist(), "maps": maps}


def describe_saved(explanation: Explanation) -> dict[str, Any]:
    """Return what `describe_image` does, of a saved explanation: one class and one method.

    Raises:
        DataError: if logits or maps are not finite.
    """
    method, target = explanation.method, explanation.target
    _require_finite("logits", explanation.logits)
    return {
        "logits": explanation.logits.tolist(),
        "classes": [target],
        "maps": {f"{method}/0/{stream}": pack(each) for stream, each in explanation.maps.items()},
        "methods": [{"name": method, "streams": [*explanation.maps], "alphas": [None]}],
        "saved": {"target": target, "rival": explanation.rival},
    }


def class_maps(explainer: Explainer, x: Tensor, classes: Tensor) -> Tensor:
    """Return the map of each class of an image, (K, H, W)."""
    batches = torch.split(classes, BATCH)
    parts = [explainer(x.expand(len(part), -1, -1, -1), part) for part in batches]
    return torch.cat(parts)[:, 0].cpu()


def pack(maps: Tensor) -> dict[str, Any]:
    """Return maps (K, H, W) as 16-bit integers, compressed, with the unit of each map.

    Raises:
        DataError: if a map is not finite.
    """
    _require_finite("a map", maps)
    maps = maps.double()
    scales = maps.abs().amax(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
    levels = (maps / scales[:, None, None]).round().to(torch.int16)
    data = levels.numpy().astype("<i2").tobytes()
    return {"scales": scales.tolist(), "data": packed(data)}


def _require_finite(name: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise DataError(f"{name}: not finite, and cannot be shown")


def packed(data: bytes) -> str:
    """Return data as text: compressed by gzip, in base64."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def score_images(
    network: Network, x: Tensor, shown: Sequence[Shown]
) -> Sequence[Mapping[str, Mapping[str, float]]]:
    """Score the maps of each image's predicted class, without masks.

    Args:
        network: The network.
        x: Images (N, C, H, W).
        shown: The methods; of several alphas the first is scored.

    Returns:
        For each image its scores by metric, by method and stream; those without a score are left
        out.
    """
    y = network.predict(x)
    found: list[dict[str, dict[str, float]]] = [{} for _ in x]
    done: set[tuple[str, Stream]] = set()
    for method, _ in shown:
        for stream, explainer in method.explainers.items():
            if (method.name, stream) in done:
                continue
            done.add((method.name, stream))
            scores = score(SCORES, network.model, explainer, x, y)
            for metric, values in scores.items():
                for image, value in zip(found, values.values.tolist(), strict=True):
                    if value == value:  # no score is nan
                        image.setdefault(f"{method.name}/{stream}", {})[metric] = value
    return found
