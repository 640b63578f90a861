"""Callbacks that watch a network explain itself: heatmaps and Quantus scores each epoch.

Neither can stop a run: what fails is counted, logged with its reason, and left out.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
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
from dmn.io.writing import write_whole
from dmn.tracking.failures import Failures
from dmn.train.probe_images import ProbeImages
from dmn.viz.panels import overlay, panel, png

SCORED = [
    "PixelFlipping",
    "MaxSensitivity",
    "PointingGame",
    "RelevanceRankAccuracy",
    "Sparseness",
    "RandomLogit",
]
LEGEND = "Red speaks for the class, blue against it."
LEGEND_OF_EFFECT = "Red: ink there speaks for the class; blue: against it."


class ProbeCallback(pl.Callback):
    """Gather probe images while validating, and look at them when validation ends.

    Args:
        images: Probe images a process.
        every_n_epochs: Look only each n-th epoch, and after the last one; 0 is never.
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
        if self._is_due(trainer):
            self._probe.collect(batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the images, and log how long it took."""
        explainers = getattr(pl_module, "explainers", {})
        if not self._probe or (self.needs_explainers and not explainers):
            return
        start = time.perf_counter()
        # an explainer may draw, and what is drawn next must not depend on it
        with isolate_rng(), self.failures.suppress_and_count("watching"):
            self.on_probe(trainer, pl_module, explainers, self._probe.take())
        seconds = time.perf_counter() - start
        self.seconds += seconds
        pl_module.log(f"time/{self.log_name}_s", seconds, sync_dist=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how often what went wrong."""
        self.failures.report()

    def on_probe(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        explainers: dict[str, Explainer],
        batch: ImageBatch,
    ) -> None:
        """Look at the probe images; subclasses say how."""
        raise NotImplementedError

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking or not self.every_n_epochs:
            return False
        epoch = trainer.current_epoch + 1
        return epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs


class HeatmapLogger(ProbeCallback):
    """Draw, each epoch, how the network explains the same few images.

    One panel a method: the image, evidence (g), counter-evidence (h), and both combined; red
    speaks for the true class, blue against it. Panels are saved below `heatmaps/` in the run's
    folder and handed to every logger that takes images, as `heatmap/<method>`.

    Args:
        images: Rows of a panel.
        every_n_epochs: Draw only each n-th epoch, and the last; 0 is never.
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
        rows = [f"true {a}\nsaid {b}" for a, b in zip(y.tolist(), predicted.tolist(), strict=True)]
        for name, explainer in explainers.items():
            with self.failures.suppress_and_count(f"heatmap of {name}"):
                picture = panel(_columns(explainer, x, y), rows, _caption(explainer))
                path = folder / f"{name}_epoch_{trainer.current_epoch:03d}.png"
                write_whole(path, png(picture))
                for logger in trainer.loggers:
                    if hasattr(logger, "log_image"):
                        logger.log_image(f"heatmap/{name}", [str(path)])


def _caption(explainer: Explainer) -> str:
    effect = getattr(explainer, "part", None) == "p-n"  # of the complement too, its sign turned
    return f"{explainer}. {LEGEND_OF_EFFECT if effect else LEGEND}"


def _columns(explainer: Explainer, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Picture the images and their maps, by the title of the column."""
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
    """Score, each epoch, the network's explanations of the true class by Quantus' metrics.

    Logs `quantus/<metric>/<method>` for each explainer and for the controls `Random`, `Edges` and
    `Centre`, the floor that a score has to be read against; and `quantus/unscored`, the share of
    (metric, method, image) without a score, whose reasons are counted and printed. Checkpoints and
    early stopping can monitor the scores: a missing one is NaN and counts as no improvement.

    Args:
        metrics: Which metrics, keys of `dmn.evaluate.METRICS`; None is `SCORED`, one or two of a
            kind that take little time.
        images: Validation images scored a process. 6 cost about a fifth of the training of `mnist`.
        every_n_epochs: Score only each n-th epoch, and the last; 0 is never.
        with_controls: Score the controls too.
        seed: Of the metrics' and the controls' own draws.

    Raises:
        UnknownNameError: names the metrics that there are.
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
        """Let early stopping wait out a score that is missing."""
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
                self._remark(trainer, name, method, scores.remarks)
        pl_module.log("quantus/unscored", unscored.compute(), sync_dist=True)

    def _remark(self, trainer: pl.Trainer, metric: str, method: str, remarks: Counter[str]) -> None:
        """Count, by metric and image, what went wrong."""
        where = f"first by {metric} in epoch {trainer.current_epoch}"
        for reason, count in remarks.items():
            self.failures.note(f"{method}: {reason}", where, count)
