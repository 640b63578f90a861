"""A whole comparison: images, networks and methods in; tables, the report and a W&B run out."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities import move_data_to_device
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dmn.compare.cells import CellStore
from dmn.compare.images import ComparedImages, collect
from dmn.compare.plan import Source, Subject, entries
from dmn.compare.processes import Processes
from dmn.compare.report import Gallery, write_report
from dmn.compare.suite import FORWARDS, Budget, Split, Suite
from dmn.compare.summary import ranks, summarise
from dmn.data import as_batch
from dmn.errors import DataError, UnknownNameError
from dmn.evaluate import METRICS, metric_specs
from dmn.io.options import SEEDS, require
from dmn.io.text import cell, plain
from dmn.io.writing import write_whole
from dmn.train import EpochWandbLogger, Run, wandb_folders, wandb_logger

PACKAGES = ("dmn", "torch", "torchvision", "quantus", "captum", "torchcam", "zennit", "numpy")
SECONDS_A_LINE = 15.0  # of progress, where it is no terminal that shows it
DEFAULT = Budget()
log = logging.getLogger(__name__)


class Comparison:
    """Compare how networks explain themselves with how other methods explain them.

    Everything is scored on the same images, such as every network classifies correctly, for their
    true class. Of each method the best setting is chosen on validation images, by its mean rank
    over the metrics of `choose_by`; then it is scored on test images. What was scored is kept, and
    never scored again: start the same command again to go on.

    Args:
        networks: Networks by the label they get here.
        methods: Network → what a method is called here → its options; those that are lists are
            chosen from. `method` names the method, if it is called something else here. Methods:
            those of `dmn.explain.list_methods()`.
        data: The images.
        metrics: Keys of `dmn.evaluate.METRICS`; None is all of them.
        choose_by: Metrics by which settings are chosen.
        budget: How many images, settings and seconds.
        gallery: Test images whose heatmaps are shown.
        title: Of the report.
        seed: Of the metrics' own draws, and of the bootstrap.
        device: Where to compute: "cpu", "cuda", ...; None takes an accelerator if there is one.
        retry: Try cells again that have no score at all.
        devices: Processes that score at once, each on an accelerator of its own, or all on the
            CPU; -1 is one for each accelerator. The scores are the same.

    Raises:
        OptionError: for a number that cannot be.
        UnknownNameError: for methods of a network that is not listed.
        UnknownNameError: names the methods that there are.
        UnknownNameError: names the metrics that there are.
        OptionError: for a method with more settings than all are given.
        DataError: for a network that takes other images than the data gives.
        DataError: if no image is classified correctly by all networks.
        RunError: if there are not as many devices, or one of their processes failed.
    """

    def __init__(
        self,
        networks: dict[str, Source],
        methods: dict[str, dict[str, dict[str, Any] | None]],
        data: pl.LightningDataModule,
        metrics: list[str] | None = None,
        choose_by: list[str] | None = None,
        budget: Budget = DEFAULT,
        gallery: int = 6,
        title: str = "How good are these explanations?",
        seed: int = 0,
        device: str | None = None,
        retry: bool = False,
        devices: int = 1,
    ) -> None:
        if foreign := methods.keys() - networks.keys():
            raise UnknownNameError(
                f"methods for {', '.join(sorted(foreign))}, but networks are {', '.join(networks)}"
            )
        require("gallery", gallery, 0)
        require("seed", seed, 0, SEEDS)
        self.networks, self.methods, self.data = networks, methods, data
        self.metrics = list(metric_specs(METRICS if metrics is None else metrics))
        self.choose_by = list(metric_specs(choose_by or ["PixelFlipping"]))
        self.budget = budget
        self.gallery, self.title, self.seed = gallery, title, seed
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.retry, self.devices = retry, devices

    def run(self, run: Run, config: str = "") -> Path:
        """Score, and write tables, report and Weights & Biases run.

        Args:
            run: Where: the folder `compare/<name>` of its root.
            config: What was asked for, as text, for the report.

        Returns:
            The path of report.html.
        """
        start = time.perf_counter()
        folder = Path(run.root, "compare", run.name)
        processes = None if self.devices == 1 else Processes(self.device, self.devices)
        self.data.prepare_data()
        suite = self._suite(CellStore(folder / "cells", self.retry and not processes))
        if processes:
            processes.run(partial(self._score_share, folder / "cells"))
        _show(suite.run(), len(suite))
        scores, cells = suite.scores(), suite.cells()
        summary = summarise(scores, cells, self.seed)
        write_tables(folder, {"scores": scores, "cells": cells, "summary": summary})
        write_whole(folder / "settings.json", json.dumps(suite.chosen, indent=2))
        gallery = self._gallery(suite)
        report = write_report(
            folder,
            title=self.title,
            scores=scores,
            cells=cells,
            settings=suite.chosen,
            gallery=gallery,
            curves=suite.curves(),
            versions={"python": platform.python_version(), **_versions()},
            config=config,
            notes=self._notes(suite, time.perf_counter() - start),
            seed=self.seed,
        )
        with wandb_logger(run, "compare", folder, f"compare {run.name}") as logger:
            logger.log_hyperparams({"comparison": config})
            with logger.failures.suppress_and_count("logging the results"):
                _track(logger, summary, folder)
        offline = [] if run.online else [f"wandb sync {it}" for it in wandb_folders(folder)[-1:]]
        print("\n".join(map(plain, [f"see {report}", *offline])))
        return report

    def _score_share(self, cells: Path, fabric: Fabric) -> None:
        """Score, as one of several processes, every so many-th entry."""
        self.device = str(fabric.device)
        share = slice(fabric.global_rank, None, fabric.world_size)
        suite = self._suite(CellStore(cells, self.retry), share)
        progress = suite.run()
        if fabric.is_global_zero:
            _show(progress, len(suite))
        else:
            deque(progress, maxlen=0)

    def _suite(self, store: CellStore, share: slice = slice(None)) -> Suite:
        self.data.setup("validate")
        self.data.setup("test")
        example = as_batch(next(iter(self.data.val_dataloader()))).image[:1].to(self.device)
        subjects = {
            label: Subject.load(label, source, example) for label, source in self.networks.items()
        }
        for subject in subjects.values():
            self._check_normalisation(subject)
        made = entries(self.methods, subjects, self.budget.settings)
        images: dict[Split, ComparedImages] = {
            "validation": self._collect(
                self.data.val_dataloader(), subjects, self.budget.validation
            ),
            "test": self._collect(self.data.test_dataloader(), subjects, self.budget.test),
        }
        return Suite(
            subjects,
            made[share],
            images,
            self.metrics,
            self.choose_by,
            self.budget,
            store,
            self.seed,
        )

    def _check_normalisation(self, subject: Subject) -> None:
        network = subject.network
        for name, wanted in {"mean": network.mean, "std": network.std}.items():
            given = getattr(self.data, name, wanted)
            if (wanted and tuple(wanted)) != (given and tuple(given)):
                raise DataError(
                    f"{subject.label} takes images of {name} {wanted}, the data gives {given}; "
                    f"set data.init_args.{name}"
                )

    def _collect(self, loader: Any, subjects: Mapping[str, Subject], count: int) -> ComparedImages:
        batches = (move_data_to_device(as_batch(batch), self.device) for batch in loader)
        return collect(batches, list(subjects.values()), count)

    def _gallery(self, suite: Suite) -> Gallery:
        images = suite.images["test"].first(self.gallery)
        maps = {}
        for entry in suite.entries:
            try:
                maps[entry.name] = suite.explainer(entry)(images.x, images.y)
            except Exception as error:  # the cells say why; a picture is not worth a comparison
                log.warning("no heatmaps of %s: %s", entry.name, error)
        network = next(iter(suite.subjects.values())).network
        names = [network.classes[label] for label in images.y.tolist()]
        rows = [f"class {name}, said {name}" for name in names]  # all are classified correctly
        shown = network.restore(images.x).clamp(0, 1).cpu()
        return Gallery(shown, rows, maps, range(len(images)))

    def _notes(self, suite: Suite, seconds: float) -> list[str]:
        validation, test = suite.images["validation"], suite.images["test"]
        return [
            f"Scored on {len(test)} test images, the first of {test.seen} that every network "
            f"classifies correctly; metrics that need more maps, or over {FORWARDS} passes, an "
            f"image on the first {min(self.budget.expensive, len(test))}. Explained is the true "
            "class.",
            f"Settings were chosen on {len(validation)} validation images of {validation.seen}: "
            f"for each method the one with the best mean rank over {', '.join(self.choose_by)}, of "
            f"at most {self.budget.settings}.",
            f"It took {seconds:.0f} s this time on {self.device} with {torch.get_num_threads()} "
            "threads; what was scored before was not scored again.",
        ]


def _show(progress: Iterator[str], total: int) -> None:
    """Show how far it is: a bar in a terminal, else a line now and then."""
    if sys.stdout.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task("", total=total)
            for done in progress:
                bar.update(task, advance=1, description=plain(done))
        return
    start = last = time.perf_counter()
    for count, done in enumerate(progress, start=1):
        now = time.perf_counter()
        if now - last >= SECONDS_A_LINE or count == total:
            left = (now - start) / count * (total - count)
            print(f"{count}/{total}  {plain(done)}  about {left:.0f} s left", flush=True)
            last = now


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables as parquet and, names that spreadsheets would compute marked, as CSV."""
    for name, table in tables.items():
        write_whole(folder / f"{name}.parquet", table.to_parquet(index=False))
        marked = table.map(lambda value: cell(value) if isinstance(value, str) else value)
        write_whole(folder / f"{name}.csv", marked.to_csv(index=False))


def _track(logger: EpochWandbLogger, summary: pd.DataFrame, folder: Path) -> None:
    """Hand the results to Weights & Biases, in one row."""
    scored = summary.dropna(subset=["mean"])
    logger.log_metrics(
        {f"quantus/{row.metric}/{row.entry}": row.mean for row in scored.itertuples()}
    )
    for key, table in {"summary": summary, "ranks": ranks(summary)}.items():
        plain = table.astype(object).where(table.notna(), None)
        logger.log_table(f"tables/{key}", columns=list(plain), data=plain.to_numpy().tolist())
    for metric, rows in scored.groupby("metric", sort=False):
        bars = {f"{row.kind}: {row.entry}": row.mean for row in rows.itertuples()}
        logger.log_bars(f"bars/{metric}", bars)
    for picture in sorted((folder / "figures").glob("*.png")):
        logger.log_image(f"figures/{picture.stem}", [str(picture)])
    logger.flush()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}
