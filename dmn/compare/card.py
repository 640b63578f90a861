"""What a network's card says of it: how often it is right, and how good its explanations are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from scipy.stats import binomtest

from dmn.compare.images import collect
from dmn.compare.statistics import interval
from dmn.data import as_batch
from dmn.evaluate import score
from dmn.explain import Explainer, SplitCAM, SplitGrad, SplitLRP, controls
from dmn.hub import Network
from dmn.io.class_paths import instantiate
from dmn.split import ResplitExplainer
from dmn.train.probe_callbacks import SCORED

DIGITS = 4
Maker = Callable[..., Callable[[Any], Explainer]]  # from options to what explains a network
EXPLAINERS: dict[str, Maker] = {
    "dmn.explain.SplitCAM": partial(partial, SplitCAM),
    "dmn.explain.SplitGrad": partial(partial, SplitGrad),
    "dmn.explain.SplitLRP": partial(partial, SplitLRP),
    "dmn.split.ResplitExplainer": partial(partial, ResplitExplainer),
}


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
            right += int((network.predict(batch.image) == batch.label).sum())
            n += len(batch.label)
    low, high = binomtest(right, n).proportion_ci(method="wilson")
    return {"test": right / n, "n": n, "interval": _rounded(float(low), float(high))}


def explanations(
    network: Network, batches: Iterable[Any], count: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Score a network's explanations by the metrics that watch a training.

    Explained is the true class of the first images that the network classifies correctly. The
    explainers are those of its card, which its run was watched by, and the controls: the floor that
    scores have to be read against.

    Args:
        network: With `explainers` on its card, as of `dmn.load`.
        batches: Whatever `dmn.data.as_batch` takes.
        count: Images wanted.
        seed: Of the metrics' and the controls' own draws.

    Returns:
        How many `images`, and `scores`: method → metric → mean, its 95 % interval (bootstrap) and
        the number `n` of images with a score.

    Raises:
        DataError: if no image is classified correctly.
        UnknownNameError: if the card names an explainer that is none of `EXPLAINERS`: a card may
            come from anybody.
        OptionError: if an explainer's arguments are not names and values.
    """
    specs = network.card.get("explainers") or {}
    explainers = {
        name: instantiate(spec, EXPLAINERS)(network.model) for name, spec in specs.items()
    }
    images = collect(batches, {network.name: network}, count)
    scores = {}
    for method, explainer in {**explainers, **controls(seed)}.items():
        results = score(SCORED, network.model, explainer, images.x, images.y, images.masks, seed)
        scores[method] = {
            metric: {
                "mean": _rounded(result.mean)[0],
                "interval": _rounded(*interval(result.values)),
                "n": result.n,
            }
            for metric, result in results.items()
        }
    return {"images": len(images), "seed": seed, "scores": scores}


def _rounded(*values: float) -> list[float | None]:
    return [round(value, DIGITS) if math.isfinite(value) else None for value in values]
