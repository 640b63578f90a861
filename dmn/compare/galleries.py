"""The heatmaps that a comparison's report shows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from dmn.compare.report import Gallery
from dmn.compare.suite import Suite
from dmn.compare.tasks import Task
from dmn.errors import TargetError
from dmn.explain import Against, Target, resolve_target

BENCHMARK_IMAGES = 2  # of each
log = logging.getLogger(__name__)


def compared_gallery(suite: Suite, label: str, count: int) -> Gallery:
    """Return heatmaps of the first test images, also of their class against the likeliest other.

    Args:
        suite: When all is scored.
        label: Of the network that names the classes, and whose likeliest other class is shown.
        count: Number of images.
    """
    task = suite.tasks[label]
    images, network = task.images["test"].first(count), task.network
    names = map(network.label, images.y.tolist())
    rows = [f"class {name}, said {name}" for name in names]  # all are classified correctly
    shown, maps = _shown(task, count), _maps(suite, images.x, images.y)
    return Gallery(shown, rows, maps, range(len(images)), _against(suite, label, count))


def benchmark_galleries(suite: Suite, names: Sequence[str]) -> list[Gallery]:
    """Return heatmaps of the first images of each benchmark; of two in each.

    Args:
        suite: When all is scored.
        names: Of the benchmarks.
    """
    galleries = []
    for name in names:
        images = suite.tasks[name].images["test"].first(BENCHMARK_IMAGES)
        rows = [f"{name}, class {label}" for label in images.y.tolist()]
        maps = _maps(suite, images.x, images.y, name)
        galleries.append(Gallery(_shown(suite.tasks[name], len(images)), rows, maps))
    return galleries


def _against(suite: Suite, label: str, count: int) -> Gallery | None:
    """Return heatmaps of the class against the network's likeliest other one, if any."""
    images, network = suite.tasks[label].images["test"].first(count), suite.tasks[label].network
    try:
        both = resolve_target(network.model, images.x, Against(images.y))
    except TargetError:  # one logit
        return None
    rows = [f"why {network.label(y)}, not {network.label(rival)}?" for y, rival in both.tolist()]
    maps = _maps(suite, images.x, Against(*both.unbind(dim=1)))
    return Gallery(_shown(suite.tasks[label], count), rows, maps)


def _shown(task: Task, count: int) -> Tensor:
    return task.network.restore(task.images["test"].x[:count]).clamp(0, 1).cpu()


def _maps(
    suite: Suite, x: Tensor, target: Target, benchmark: str | None = None
) -> dict[str, Tensor]:
    """Return each entry's maps, of its own network or of a benchmark's.

    Entries without any are missing.
    """
    maps = {}
    for entry in suite.entries:
        try:
            maps[entry.name] = suite.explainer(entry, benchmark or entry.network)(x, target)
        except Exception as error:  # the cells say why; a picture must not stop a comparison
            log.warning("no heatmaps of %s: %s", entry.name, error)
    return maps
