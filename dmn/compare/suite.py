"""Compute every score of a comparison: methods, settings, metrics and images.

Settings are chosen on validation images by one rule for all methods, and scored on test images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dmn.compare.cells import Cell, CellStore, fingerprint
from dmn.compare.images import ComparedImages
from dmn.compare.plan import Entry, Setting, as_text
from dmn.compare.statistics import places
from dmn.compare.summary import EXPLANATION
from dmn.compare.tasks import Split, Task
from dmn.evaluate import METRICS, score
from dmn.evaluate.batch import Remake
from dmn.explain import Explainer, Target
from dmn.hub import Network
from dmn.io.options import ABOVE_ZERO, require

BATCH = 32  # images explained at once
FORWARDS = 40  # passes an image above which a metric is expensive


@dataclass(frozen=True)
class Budget:
    """How much is scored.

    Args:
        validation: Number of images on which settings are chosen.
        test: Number of images for metrics that need one map per image.
        expensive: Number of images for metrics that need more maps, or more than 40 passes, per
            image.
        seconds: The longest time that one metric may take for one entry; images that are left over
            have no score.
        settings: The largest number of settings that a method may have.

    Raises:
        OptionError: if one is negative, zero, or not a number.

    Examples:
        >>> from dmn.compare import Budget
        >>> Budget(test=50, seconds=60)
        Budget(validation=32, test=50, expensive=30, seconds=60, settings=12)
    """

    validation: int = 32
    test: int = 100
    expensive: int = 30
    seconds: float = 120.0
    settings: int = 12

    def __post_init__(self) -> None:
        for name in ("validation", "test", "expensive", "settings"):
            require(f"budget.{name}", getattr(self, name), 1)
        require("budget.seconds", self.seconds, ABOVE_ZERO)


class Suite:
    """Score entries, and store each score as soon as it is computed.

    Args:
        tasks: What is explained: the networks by label, with their images, and benchmarks by name.
        entries: What is compared.
        metrics: Keys of `dmn.evaluate.METRICS`, in the order of the tables.
        choose_by: The metrics by which settings are chosen.
        budget: How much is scored.
        store: Where scores are stored.
        seed: For the random numbers of the metrics.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from dmn.compare import Budget, ComparedImages, Source, Suite, entries
        >>> from dmn.compare.cells import CellStore
        >>> from dmn.compare.tasks import Task
        >>> networks = {"pair": Source("mnist_paired").load("cpu")}
        >>> listed = entries({"pair": {"SplitLRP": {}}}, networks, budget=1)
        >>> images = ComparedImages(torch.rand(2, 1, 28, 28), torch.tensor([3, 5]), None, 2)
        >>> tasks = {"pair": Task(networks["pair"], {"validation": images, "test": images})}
        >>> with TemporaryDirectory() as folder:
        ...     store = CellStore(Path(folder))
        ...     suite = Suite(tasks, listed, ["Sparseness"], [], Budget(), store)
        ...     steps = list(suite.run())
        >>> steps[:2]
        ['SplitLRP (pair): Explanation', 'SplitLRP (pair): Sparseness']
        >>> len(suite.scores())  # two images, SplitLRP and the controls
        8
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        entries: Sequence[Entry],
        metrics: Sequence[str],
        choose_by: Sequence[str],
        budget: Budget,
        store: CellStore,
        seed: int = 0,
    ) -> None:
        self.tasks, self.entries = tasks, entries
        self.metrics, self.choose_by = list(metrics), list(choose_by)
        self.budget, self.store, self.seed = budget, store, seed
        self.chosen: dict[str, Setting] = {}
        self._cells: list[tuple[Entry, Setting, Split, str, Cell]] = []
        self._weights = {
            name: fingerprint(task.network.model.state_dict().values())
            for name, task in tasks.items()
        }
        self._image_hashes: dict[tuple[str, Split, int], str] = {}

    def __len__(self) -> int:
        """Return how many steps `run` takes: one per entry, setting and metric."""
        searched = sum(len(e.settings) for e in self.entries if len(e.settings) > 1)
        return searched * len(self.choose_by) + len(self.entries) * (len(self.metrics) + 1)

    def run(self) -> Iterator[str]:
        """Score everything; yield after each step what was scored."""
        for entry in self.entries:
            means: list[dict[str, float]] = []
            searched = entry.settings if len(entry.settings) > 1 else ()
            for setting in searched:
                means.append({})
                for metric, cell in self._score(entry, setting, "validation", self.choose_by):
                    means[-1][metric] = mean(cell)
                    yield f"{entry.name}: choosing by {metric}"
            setting = searched[best_setting(means)] if searched else entry.settings[0]
            self.chosen[entry.name] = setting
            for metric, _ in self._score(entry, setting, "test", [EXPLANATION, *self.metrics]):
                yield f"{entry.name}: {metric}"

    def explainer(self, entry: Entry, task: str) -> Explainer:
        """Return an entry's explainer of a task's network, in the chosen setting."""
        return self._explainer(entry, self.chosen[entry.name], self.tasks[task])

    def scores(self) -> pd.DataFrame:
        """Return the scores: one row for each entry, setting, split, metric and image."""
        rows = [
            {
                **_columns(entry, setting, split, metric),
                "image": image,
                "value": value,
                "reason": reason,
            }
            for entry, setting, split, metric, cell in self._cells
            if metric != EXPLANATION
            for image, (value, reason) in enumerate(zip(cell.values, cell.reasons, strict=True))
        ]
        return pd.DataFrame(rows).astype({"value": float})

    def cells(self) -> pd.DataFrame:
        """Return one row for each entry, setting, split and metric: counts, reasons, seconds."""
        return pd.DataFrame(
            {
                **_columns(entry, setting, split, metric),
                "n": len(cell.values) if metric == EXPLANATION else cell.n,
                "dropped": 0 if metric == EXPLANATION else len(cell.values) - cell.n,
                "reasons": cell.reason_summary,
                "seconds": cell.seconds,
            }
            for entry, setting, split, metric, cell in self._cells
        )

    def curves(self) -> dict[str, Any]:
        """Return the curves of PixelFlipping on test images, (N, steps + 1), by entry."""
        return {
            entry.name: np.array(cell.curves)
            for entry, _, split, metric, cell in self._cells
            if split == "test" and metric == "PixelFlipping" and cell.curves
        }

    def _score(
        self, entry: Entry, setting: Setting, split: Split, metrics: Sequence[str]
    ) -> Iterator[tuple[str, Cell]]:
        makers = {
            name: _LazyExplainer(partial(self._explainer, entry, setting, task))
            for name, task in self.tasks.items()
        }
        for metric in metrics:
            name = _benchmark(metric) or entry.network
            images = self._images(name, split, metric)
            key = self._key(name, entry, setting, split, metric, images)
            cell = self.store.get(key)
            if cell is None:
                remake = partial(self._remake, entry, setting, self.tasks[name].network)
                cell = self._measure(name, makers[name], remake, metric, images)
                self.store.put(key, cell)
            self._cells.append((entry, setting, split, metric, cell))
            yield metric, cell

    def _explainer(self, entry: Entry, setting: Setting, task: Task) -> Explainer:
        return entry.explainer(task.network, setting, task.images["validation"].x[:1])

    def _remake(
        self, entry: Entry, setting: Setting, network: Network, model: nn.Module, example: Tensor
    ) -> Explainer:
        """Return an entry's explainer of a changed network."""
        return entry.explainer(replace(network, model=model), setting, example)

    def _images(self, task: str, split: Split, metric: str) -> ComparedImages:
        images = self.tasks[task].images[split]
        spec = METRICS.get(metric)
        expensive = spec is not None and (spec.explanations > 0 or spec.forwards > FORWARDS)
        return images.first(self.budget.expensive) if expensive and split == "test" else images

    def _key(
        self,
        task: str,
        entry: Entry,
        setting: Setting,
        split: Split,
        metric: str,
        images: ComparedImages,
    ) -> dict[str, Any]:
        hashed = (task, split, len(images))
        if hashed not in self._image_hashes:
            tensors = [images.x, images.y, *([] if images.masks is None else [images.masks])]
            self._image_hashes[hashed] = fingerprint(tensors)
        return {
            "network": self._weights[task],
            "method": entry.method,
            "setting": setting,
            "metric": metric,
            "images": self._image_hashes[hashed],
            "seed": self.seed,
            "seconds": self.budget.seconds,
            "versions": [version("dmn"), version("quantus")],
        }

    def _measure(
        self, task: str, make: _LazyExplainer, remake: Remake, metric: str, images: ComparedImages
    ) -> Cell:
        """Score one cell; an error becomes the reason for having no score."""
        start = time.perf_counter()
        try:
            explainer = make()
            if metric == EXPLANATION:
                explainer.explain_all(images)
                seconds = time.perf_counter() - start
                return Cell([None] * len(images), [""] * len(images), seconds)
            result = score(
                [metric],
                self.tasks[task].network.model,
                explainer,
                images.x,
                images.y,
                images.masks,
                self.seed,
                batch_size=BATCH,
                seconds=self.budget.seconds,
                remake=remake,
            )[metric]
        except Exception as error:  # of any library: one cell must not stop a comparison
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            empty: list[float | None] = [None] * len(images)
            return Cell(empty, [reason] * len(images), time.perf_counter() - start)
        values = [float(value) if np.isfinite(value) else None for value in result.values]
        curves = None if result.curves is None else result.curves.tolist()
        return Cell(values, list(result.reasons), result.seconds, curves)


class _LazyExplainer:
    """Make an explainer once, when the first cell needs it."""

    def __init__(self, make: Callable[[], Explainer]) -> None:
        self._make = make
        self._explainer: _CachedExplainer | None = None

    def __call__(self) -> _CachedExplainer:
        if self._explainer is None:
            self._explainer = _CachedExplainer(self._make())
        return self._explainer


class _CachedExplainer:
    """An explainer that caches its maps of the unchanged images, which every metric needs."""

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer
        self._maps: dict[str, Tensor] = {}

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        key = fingerprint([x, torch.as_tensor(-1 if target is None else target)])
        cached = self._maps.get(key)
        return self._explainer(x, target) if cached is None else cached

    def explain_all(self, images: ComparedImages) -> None:
        """Explain all images, a batch at a time."""
        for rows in range(0, len(images), BATCH):
            x, y = images.x[rows : rows + BATCH], images.y[rows : rows + BATCH]
            self._maps[fingerprint([x, y])] = self._explainer(x, y)


def _benchmark(metric: str) -> str | None:
    """Return the benchmark that a metric is measured on, if it is not the entry's own network."""
    spec = METRICS.get(metric)
    return None if spec is None else spec.benchmark


def mean(cell: Cell) -> float:
    """Return the mean of the scores; NaN if there are none."""
    values = [value for value in cell.values if value is not None]
    return float(np.mean(values)) if values else float("nan")


def best_setting(means: Sequence[Mapping[str, float]]) -> int:
    """Return the setting with the best mean rank over the metrics, the first in a tie.

    Args:
        means: Metric → mean score, for each setting; NaN ranks last.
    """
    total = np.zeros(len(means))
    for metric in means[0]:
        sign = 1 if METRICS[metric].higher_is_better else -1
        goodness = [sign * scores[metric] for scores in means]
        total += np.nan_to_num(places(goodness, np.ones(len(means))))
    return int(total.argmin())


def _columns(entry: Entry, setting: Setting, split: Split, metric: str) -> dict[str, str]:
    return {
        "entry": entry.name,
        "network": entry.network,
        "method": entry.title,
        "kind": entry.kind,
        "setting": as_text(setting),
        "split": split,
        "metric": metric,
    }
