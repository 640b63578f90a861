"""What a network's card says of it: how often it is right, and how good its explanations are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import Any

import torch

from dmn.compare.images import collect
from dmn.compare.plan import Subject
from dmn.compare.statistics import interval
from dmn.data import as_batch
from dmn.errors import UnknownNameError
from dmn.evaluate import score
from dmn.explain import controls
from dmn.hub.networks import Network
from dmn.train.probe_callbacks import SCORED

Z = 1.96  # of the normal distribution, for 95 %
DIGITS = 4
EXPLAINERS = ("dmn.explain", "dmn.split")


def accuracy(network: Network, batches: Iterable[Any]) -> dict[str, Any]:
    """Count what a network gets right.

    Args:
        network: In eval mode.
        batches: Whatever `dmn.data.as_batch` takes.

    Returns:
        The share `test` of `n` images, and its 95 % interval.

    Source: Wilson 1927 for the interval.
    """
    right = n = 0
    with torch.inference_mode():
        for batch in map(as_batch, batches):
            predicted = network.model(batch.image).argmax(dim=1)
            right += int((predicted == batch.label).sum())
            n += len(batch.label)
    middle = (right + Z**2 / 2) / (n + Z**2)
    reach = Z / (n + Z**2) * (right * (n - right) / n + Z**2 / 4) ** 0.5
    return {"test": right / n, "n": n, "interval": _rounded(middle - reach, middle + reach)}


def explanations(
    network: Network, batches: Iterable[Any], count: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Score a network's explanations by the metrics that watch a training.

    Explained is the true class of the first images that the network classifies correctly. The
    explainers are those of its card, which its run was watched by, and the controls: the floor that
    scores have to be read against.

    Args:
        network: With `explainers` on its card, as of `load_network`.
        batches: Whatever `dmn.data.as_batch` takes.
        count: Images wanted.
        seed: Of the metrics' and the controls' own draws.

    Returns:
        How many `images`, and `scores`: method → metric → mean, its 95 % interval (bootstrap) and
        the number `n` of images with a score.

    Raises:
        DataError: if no image is classified correctly.
        UnknownNameError: if the card names an explainer that is none of dmn's.
    """
    told = network.card.get("explainers") or {}
    explainers = {name: _factory(each)(network.model) for name, each in told.items()}
    images = collect(batches, [Subject(network.name, network, torch.empty(0))], count)
    scores = {}
    for method, explainer in {**explainers, **controls(seed)}.items():
        results = score(SCORED, network.model, explainer, images.x, images.y, images.masks, seed)
        scores[method] = {
            metric: {
                "mean": _rounded(each.mean)[0],
                "interval": _rounded(*interval(each.values)),
                "n": each.n,
            }
            for metric, each in results.items()
        }
    return {"images": len(images), "seed": seed, "scores": scores}


def _factory(told: Any) -> Any:
    """Return what makes an explainer of a network, from class path and arguments.

    Raises:
        UnknownNameError: if it is none of dmn's: a card may come from anybody.
    """
    if not isinstance(told, dict) or "class_path" not in told:
        return told
    module, _, name = str(told["class_path"]).rpartition(".")
    if module not in EXPLAINERS:
        raise UnknownNameError(f"{module}.{name} is not used; explainers are of {EXPLAINERS}")
    options = {key: _factory(value) for key, value in (told.get("init_args") or {}).items()}
    return partial(getattr(import_module(module), name), **options)


def _rounded(*values: float) -> list[float | None]:
    return [round(value, DIGITS) if math.isfinite(value) else None for value in values]
