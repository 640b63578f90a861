"""What methods explain: a network and its images, of the user or of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch

from dmn.compare.images import ComparedImages
from dmn.evaluate import metric_specs
from dmn.hub import Network
from dmn.truth import BENCHMARKS, Benchmark

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Task:
    """A network and the images that it is explained on.

    Attributes:
        network: The network.
        images: The images of each split; a benchmark has the same ones in both, as no setting is
            chosen on them.
    """

    network: Network
    images: Mapping[Split, ComparedImages]


def make_benchmarks(metrics: Iterable[str], count: int, seed: int) -> dict[str, Benchmark]:
    """Make the benchmarks that metrics are measured on, by name; most train a small network.

    Args:
        metrics: Keys of `dmn.evaluate.METRICS`.
        count: Number of images of each.
        seed: For networks and images.
    """
    named = {spec.benchmark: None for spec in metric_specs(metrics).values() if spec.benchmark}
    return {name: BENCHMARKS[name](count, seed) for name in named}


def benchmark_task(name: str, made: Benchmark, device: torch.device | str) -> Task:
    """Return a benchmark as a task, on a device."""
    x, y = made.images.image.to(device), made.images.label.to(device)
    masks = None if made.images.mask is None else made.images.mask.to(device)
    model = deepcopy(made.model).to(device)
    channels, height, width = x.shape[1:]
    classes = tuple(map(str, range(model(x[:1]).shape[1])))
    size, mean = (channels, height, width), (made.mean,) * channels
    network = Network(name, model, classes, size, mean, None, torch.as_tensor, {})
    images = ComparedImages(x, y, masks, len(x))
    return Task(network, {"validation": images, "test": images})
