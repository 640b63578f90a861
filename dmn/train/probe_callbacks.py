"""Callbacks that explain validation images in each epoch: heatmaps and Quantus scores.

Neither can stop a run: failures are counted, and logged with their reason.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from textwrap import fill
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import MeanMetric

from dmn.data import ImageBatch
from dmn.evaluate import metric_specs, score
from dmn.explain import Explainer, SplitExplainer, controls
from dmn.explain.target import resolve_target
from dmn.io.text import plain
from dmn.io.writing import write_whole
from dmn.tracking.failures import Failures
from dmn.train.probe_images import ProbeImages, is_due
from dmn.viz.panels import overlay, panel, png
from dmn.viz.typeface import class_label

SCORED = [
    "PixelFlipping",
    "MaxSensitivity",
    "PointingGame",
    "RelevanceRankAccuracy",
    "Sparseness",
    "RandomLogit",
]
LINE = 20  # characters of a class before a row
LEGEND = "Red speaks for the class, blue against it."
LEGEND_OF_EFFECT = "Red: ink there speaks for the class; blue: against it."


class ProbeCallback(pl.Callback):
    """Base class of callbacks that explain the same few validation images in each epoch.

    A subclass defines `log_name` and implements `on_probe`. A failure cannot stop a run: it is
    counted and logged with its reason.

    Args:
        images: Probe images per process.
        every_n_epochs: Evaluate only every n-th epoch and the last one; 0 for never.

    Examples:
        >>> from dmn.train import ProbeCallback, Trainer
        >>> class MapMean(ProbeCallback):
        ...     log_name = "mean"
        ...     def on_probe(self, trainer, pl_module, explainers, batch):
        ...         for name, explainer in explainers.items():
        ...             pl_module.log(f"mean/{name}", explainer(batch.image, batch.label).mean())
        >>> trainer = Trainer(callbacks=[MapMean(images=8)], logger=False, accelerator="cpu")
    """

    log_name: str
    needs_explainers = True

    def __init__(self, images: int, every_n_epochs: int = 1) -> None:
        self.every_n_epochs = every_n_epochs
        self.seconds = 0.0
        self.failures = Failures(self.log_name)
        self._probe = ProbeImages(images)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the first images."""
        if is_due(trainer, self.every_n_epochs):
            self._probe.collect(batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the images, and log how long it took."""
        explainers = getattr(pl_module, "explainers", {})
        if not self._probe or (self.needs_explainers and not explainers):
            return
        start = time.perf_counter()
        # an explainer may use random numbers, and training must not depend on it
        with isolate_rng(), self.failures.suppress_and_count("watching"):
            self.on_probe(trainer, pl_module, explainers, self._probe.take())
        seconds = time.perf_counter() - start
        self.seconds += seconds
        pl_module.log(f"time/{self.log_name}_s", seconds, sync_dist=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log how often each failure happened."""
        self.failures.report()

    def on_probe(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        explainers: dict[str, Explainer],
        batch: ImageBatch,
    ) -> None:
        """Evaluate the probe images; subclasses implement this.

        Args:
            trainer: The trainer.
            pl_module: The task.
            explainers: The task's explainers by name.
            batch: The images, with their classes and masks.
        """
        raise NotImplementedError


class HeatmapLogger(ProbeCallback):
    """Draw in each epoch how the network explains the same few images.

    One panel per method shows the image, evidence (g), counter-evidence (h), and their difference.
    Red speaks for the true class, blue against it. Panels are saved in `heatmaps/` in the run's
    folder, and logged as `heatmap/<method>` by every logger that supports images.

    Args:
        images: Rows of a panel.
        every_n_epochs: Draw only every n-th epoch and the last one; 0 for never.

    Examples:
        >>> from dmn.train import HeatmapLogger, Trainer
        >>> heatmaps = HeatmapLogger(images=4, every_n_epochs=2)
        >>> trainer = Trainer(callbacks=[heatmaps], logger=False, accelerator="cpu")
    """

    log_name = "heatmap"

    def __init__(self, images: int = 10, every_n_epochs: int = 1) -> None:
        super().__init__(images, every_n_epochs)

    def on_probe(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        explainers: dict[str, Explainer],
        batch: ImageBatch,
    ) -> None:
        """Draw, save and log the panels."""
        run_folder = trainer.log_dir or trainer.default_root_dir  # asks all processes
        folder = Path(run_folder) / "heatmaps"
        if not trainer.is_global_zero:
            return
        x, y, _ = batch
        predicted = resolve_target(pl_module, x, None)
        pairs = zip(y.tolist(), predicted.tolist(), strict=True)
        rows = [f"true {_class(pl_module, a)}\nsaid {_class(pl_module, b)}" for a, b in pairs]
        for name, explainer in explainers.items():
            with self.failures.suppress_and_count(f"heatmap of {name}"):
                picture = panel(_columns(explainer, x, y), rows, _caption(explainer))
                path = folder / f"{name}_epoch_{trainer.current_epoch:03d}.png"
                write_whole(path, png(picture))
                for logger in trainer.loggers:
                    if hasattr(logger, "log_image"):
                        logger.log_image(f"heatmap/{name}", [str(path)])


def _class(module: pl.LightningModule, index: int) -> str:
    """Name a class, on as many lines as it takes; by its number, if it cannot be drawn."""
    names = getattr(module, "classes", None)
    name = plain(names[index]) if names else str(index)
    return fill(class_label(name, index), LINE)


def _caption(explainer: Explainer) -> str:
    # "p-n" is also the effect of the complement, with the opposite sign
    shows_effect = getattr(explainer, "part", None) == "p-n"
    return f"{explainer}. {LEGEND_OF_EFFECT if shows_effect else LEGEND}"


def _columns(explainer: Explainer, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return pictures of the images and their maps by the title of the column."""
    image = {"image": 1 - x if x.shape[1] == 1 else x}
    if not isinstance(explainer, SplitExplainer):
        return {**image, "map": overlay(x, explainer(x, y))}
    maps = explainer.streams(x, y)
    return {
        **image,
        "g: for": overlay(x, maps.g),
        "h: against": overlay(x, maps.h, against=True),
        "g - h": overlay(x, maps.difference),
    }


class QuantusLogger(ProbeCallback):
    """Score in each epoch the network's explanations of the true class, by metrics of Quantus.

    Logs `quantus/<metric>/<method>` for each explainer and for the controls `Random`, `Edges` and
    `Centre`, with which scores are to be compared. Also logs `quantus/unscored`, the share of
    (metric, method, image) without a score; the reasons are counted and printed. Checkpoints and
    early stopping can monitor the scores: a missing score is NaN and counts as no improvement.

    Args:
        metrics: Keys of `dmn.evaluate.METRICS`; None for one or two fast metrics of each category.
        images: Validation images scored per process; 6 cost about a fifth of training `mnist`.
        every_n_epochs: Score only every n-th epoch and the last one; 0 for never.
        with_controls: Also score the controls.
        seed: For the random numbers of the metrics and the controls.

    Raises:
        UnknownNameError: if a metric does not exist; lists those that do.

    Examples:
        >>> from dmn.train import QuantusLogger, Trainer
        >>> scores = QuantusLogger(["PixelFlipping", "Sparseness"], images=4)
        >>> trainer = Trainer(callbacks=[scores], logger=False, accelerator="cpu")
    """

    log_name = "quantus"

    def __init__(
        self,
        metrics: list[str] | None = None,
        images: int = 6,
        every_n_epochs: int = 1,
        with_controls: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(images, every_n_epochs)
        self.metrics = list(metric_specs(SCORED if metrics is None else metrics))
        self.controls = controls(seed) if with_controls else {}
        self.seed = seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make early stopping accept missing scores."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and "quantus/" in str(callback.monitor):
                callback.check_finite = False

    def on_probe(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        explainers: dict[str, Explainer],
        batch: ImageBatch,
    ) -> None:
        """Score and log."""
        unscored = MeanMetric().to(pl_module.device)
        for method, explainer in {**explainers, **self.controls}.items():
            results = score(self.metrics, pl_module, explainer, *batch, self.seed)
            for name, scores in results.items():
                values = torch.from_numpy(scores.values).to(pl_module.device, torch.float32)
                mean = MeanMetric(nan_strategy="ignore").to(pl_module.device)
                mean.update(values)
                unscored.update(values.isnan().float())
                pl_module.log(f"quantus/{name}/{method}", mean.compute(), sync_dist=True)
                self._count_remarks(trainer, name, method, scores.remarks)
        pl_module.log("quantus/unscored", unscored.compute(), sync_dist=True)

    def _count_remarks(
        self, trainer: pl.Trainer, metric: str, method: str, remarks: Counter[str]
    ) -> None:
        """Count the reasons for missing scores, by metric and image."""
        where = f"first by {metric} in epoch {trainer.current_epoch}"
        for reason, count in remarks.items():
            self.failures.note(f"{method}: {reason}", where, count)
