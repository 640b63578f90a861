"""A whole comparison: from images, networks and methods to tables, a report and a W&B run."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities import move_data_to_device
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dmn.compare.cells import CellStore
from dmn.compare.galleries import benchmark_galleries, compared_gallery
from dmn.compare.images import ComparedImages, collect
from dmn.compare.plan import Source, entries
from dmn.compare.processes import Processes, needed
from dmn.compare.report import REPORT, write_report
from dmn.compare.suite import FORWARDS, Budget, Suite
from dmn.compare.summary import ranks, summarise
from dmn.compare.tasks import Split, Task, benchmark_task, make_benchmarks
from dmn.data import as_batch
from dmn.errors import DataError, OptionError, UnknownNameError
from dmn.evaluate import METRICS, metric_specs
from dmn.evaluate.truth import TRUTH
from dmn.hub import Network
from dmn.io.options import SEEDS, require, require_device
from dmn.io.text import cell, plain
from dmn.io.versions import package_versions
from dmn.io.writing import write_whole
from dmn.tracking import EpochWandbLogger, Run, wandb_folders, wandb_logger
from dmn.truth import Benchmark

PACKAGES = ("dmn", "torch", "torchvision", "quantus", "captum", "torchcam", "zennit", "numpy")
SECONDS_PER_LINE = 15.0  # of progress, where the output is not a terminal
DEFAULT = Budget()


class Comparison:
    """Compare how networks explain themselves with how other methods explain them.

    Everything is scored on the same images, those that every network classifies correctly, for
    their true class. The best setting of each method is chosen on validation images, by its mean
    rank over the metrics of `choose_by`, and then scored on test images. Scores are stored and
    never computed again: run the same comparison again to continue.

    Args:
        networks: Networks by their label in the comparison.
        methods: For each network its methods by their title, each with its options. If an option is
            a list, the best value is chosen. The option `method` names the method, if the title is
            another. `dmn.explain.list_methods()` lists the methods.
        data: The images.
        metrics: Keys of `dmn.evaluate.METRICS`; None for all of Quantus' categories. Those of a
            benchmark explain the benchmark's network and images, not the given ones.
        choose_by: Metrics by which settings are chosen, of no benchmark; None for PixelFlipping.
        budget: How many images, settings and seconds.
        gallery: Number of test images whose heatmaps are shown.
        title: Title of the report.
        seed: For the random numbers of the metrics and the bootstrap.
        device: Where to compute: "cpu", "cuda", ...; None uses a GPU if there is one.
        retry: Score again what has no score at all.
        devices: Number of processes that score at once, each on its own accelerator, or all on the
            CPU; -1 is one per accelerator. The scores are the same. With several machines, or
            under torchrun, the number on each.
        num_nodes: Number of machines, each with as many processes, which torchrun or SLURM starts.
            They need a folder in common.

    Raises:
        OptionError: if a number is out of its range, there is no such device, or a method has more
            settings than allowed.
        UnknownNameError: if a network, method or metric does not exist; lists those that do.
        DataError: if the data is not normalised as a network expects, or no image is classified
            correctly by all networks.
        RunError: if there are fewer devices than asked for, or one of their processes failed.

    Examples:
        >>> from dmn.compare import Budget, Comparison, Source
        >>> from dmn.data import MNIST
        >>> comparison = Comparison(
        ...     networks={"pair": Source("mnist_paired")},
        ...     methods={"pair": {"SplitLRP": {}, "SplitCAM": {"layer": ["input", "stage1_1"]}}},
        ...     data=MNIST(),
        ...     metrics=["PixelFlipping", "Sparseness"],
        ...     budget=Budget(validation=8, test=16),
        ... )
        >>> comparison.metrics  # comparison.run(Run("digits")) scores, and writes the report
        ['PixelFlipping', 'Sparseness']
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
        num_nodes: int = 1,
    ) -> None:
        if unknown := methods.keys() - networks.keys():
            raise UnknownNameError(
                f"methods for {', '.join(sorted(unknown))}, but networks are {', '.join(networks)}"
            )
        require("gallery", gallery, 0)
        require("seed", seed, 0, SEEDS)
        self.networks, self.methods, self.data = networks, methods, data
        self.metrics = list(metric_specs(METRICS.keys() - TRUTH if metrics is None else metrics))
        chosen_by = metric_specs(choose_by or ["PixelFlipping"])
        if benchmarks := [name for name, spec in chosen_by.items() if spec.benchmark]:
            raise OptionError(
                f"choose_by: {benchmarks[0]} has no validation images; choose by another"
            )
        self.choose_by = list(chosen_by)
        made = {spec.benchmark or "" for spec in metric_specs(self.metrics).values()} - {""}
        if taken := made & networks.keys():
            raise OptionError(f"networks: {min(taken)} is a benchmark; give another label")
        self.budget = budget
        self.gallery, self.title, self.seed = gallery, title, seed
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        require_device("device", self.device)
        self.retry, self.devices, self.num_nodes = retry, devices, num_nodes
        self._benchmarks: dict[str, Benchmark] | None = None

    def run(self, run: Run, config: str = "") -> Path:
        """Score, and write the tables, the report and a Weights & Biases run.

        Args:
            run: Where to write: the folder `compare/<name>` below its root.
            config: The configuration as text, for the report.

        Returns:
            The path of report.html.
        """
        start = time.perf_counter()
        folder = Path(run.root, "compare", run.name)
        processes = self._processes()
        score_share = partial(self._score_share, folder / "cells")
        if processes and processes.launched:
            processes.run(score_share)
            if not processes.is_first:
                return folder / REPORT
        self.data.prepare_data()
        suite = self._suite(CellStore(folder / "cells", self.retry and not processes))
        if processes and not processes.launched:
            processes.run(score_share)
        _show_progress(suite.run(), len(suite))
        scores, cells = suite.scores(), suite.cells()
        summary = summarise(scores, cells, self.seed)
        write_tables(folder, {"scores": scores, "cells": cells, "summary": summary})
        write_whole(folder / "settings.json", json.dumps(suite.chosen, indent=2))
        labels, benchmarks = list(self.networks), list(self._benchmarks or ())
        report = write_report(
            folder,
            title=self.title,
            scores=scores,
            cells=cells,
            settings=suite.chosen,
            gallery=compared_gallery(suite, labels[0], self.gallery),
            benchmarks=benchmark_galleries(suite, benchmarks if self.gallery else ()),
            curves=suite.curves(),
            versions=package_versions(PACKAGES),
            config=config,
            notes=self._notes(suite, time.perf_counter() - start),
            seed=self.seed,
        )
        with wandb_logger(run, "compare", folder, f"compare {run.name}") as logger:
            logger.log_hyperparams({"comparison": config})
            with logger.failures.suppress_and_count("logging the results"):
                _log_results(logger, summary, folder)
        offline = (
            [] if run.online else [f"wandb sync {path}" for path in wandb_folders(folder)[-1:]]
        )
        print("\n".join(map(plain, [f"see {report}", *offline])))
        return report

    def _processes(self) -> Processes | None:
        several = needed(self.devices, self.num_nodes)
        return Processes(self.device, self.devices, self.num_nodes) if several else None

    def _score_share(self, cells: Path, fabric: Fabric) -> None:
        """Score this process' share of the entries."""
        with fabric.rank_zero_first(local=True):
            self.data.prepare_data()
        self.device = str(fabric.device)
        share = slice(fabric.global_rank, None, fabric.world_size)
        suite = self._suite(CellStore(cells, self.retry), share)
        progress = suite.run()
        if fabric.is_global_zero:
            _show_progress(progress, len(suite))
        else:
            deque(progress, maxlen=0)

    def _suite(self, store: CellStore, share: slice = slice(None)) -> Suite:
        self.data.setup("validate")
        self.data.setup("test")
        networks = {label: source.load(self.device) for label, source in self.networks.items()}
        for label, network in networks.items():
            self._check_normalisation(label, network)
        compared = entries(self.methods, networks, self.budget.settings)
        images: dict[Split, ComparedImages] = {
            "validation": self._collect(
                self.data.val_dataloader(), networks, self.budget.validation
            ),
            "test": self._collect(self.data.test_dataloader(), networks, self.budget.test),
        }
        tasks = {label: Task(network, images) for label, network in networks.items()}
        if self._benchmarks is None:
            self._benchmarks = make_benchmarks(self.metrics, self.budget.test, self.seed)
        for name, made in self._benchmarks.items():
            tasks[name] = benchmark_task(name, made, self.device)
        return Suite(
            tasks,
            compared[share],
            self.metrics,
            self.choose_by,
            self.budget,
            store,
            self.seed,
        )

    def _check_normalisation(self, label: str, network: Network) -> None:
        for name, expected in {"mean": network.mean, "std": network.std}.items():
            actual = getattr(self.data, name, expected)
            if (expected and tuple(expected)) != (actual and tuple(actual)):
                raise DataError(
                    f"{label} takes images of {name} {expected}, the data gives {actual}; "
                    f"set data.init_args.{name}"
                )

    def _collect(self, loader: Any, networks: Mapping[str, Network], count: int) -> ComparedImages:
        batches = (move_data_to_device(as_batch(batch), self.device) for batch in loader)
        return collect(batches, networks, count)

    def _notes(self, suite: Suite, seconds: float) -> list[str]:
        images = next(iter(suite.tasks.values())).images
        validation, test = images["validation"], images["test"]
        searched = any(len(entry.settings) > 1 for entry in suite.entries)
        choice = (
            f"Settings were chosen on {len(validation)} validation images of {validation.seen}: "
            f"for each method the one with the best mean rank over {', '.join(self.choose_by)}, of "
            f"at most {self.budget.settings}."
        )
        trained = {
            name: made.accuracy
            for name, made in (self._benchmarks or {}).items()
            if made.accuracy is not None
        }
        accuracies = ", ".join(f"{name} {share:.3f}" for name, share in trained.items())
        return [
            f"Scored on {len(test)} test images, the first of {test.seen} that every network "
            f"classifies correctly; metrics that need more maps, or over {FORWARDS} passes, an "
            f"image on the first {min(self.budget.expensive, len(test))}. Explained is the true "
            "class.",
            choice if searched else "No settings were chosen: each method has one.",
            *(
                [f"Accuracy of the networks that benchmarks train: {accuracies}."]
                if trained
                else []
            ),
            f"It took {seconds:.0f} s this time on {self.device} with {torch.get_num_threads()} "
            "threads; what was scored before was not scored again.",
        ]


def _show_progress(progress: Iterator[str], total: int) -> None:
    """Show the progress: a bar in a terminal, otherwise a line now and then."""
    if sys.stdout.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task("", total=total)
            for step in progress:
                bar.update(task, advance=1, description=plain(step))
        return
    start = last = time.perf_counter()
    for count, step in enumerate(progress, start=1):
        now = time.perf_counter()
        if now - last >= SECONDS_PER_LINE or count == total:
            left = (now - start) / count * (total - count)
            print(f"{count}/{total}  {plain(step)}  about {left:.0f} s left", flush=True)
            last = now


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables as parquet and CSV; the CSV marks text that a spreadsheet would compute."""
    for name, table in tables.items():
        write_whole(folder / f"{name}.parquet", table.to_parquet(index=False))
        marked = table.map(lambda value: cell(value) if isinstance(value, str) else value)
        write_whole(folder / f"{name}.csv", marked.to_csv(index=False))


def _log_results(logger: EpochWandbLogger, summary: pd.DataFrame, folder: Path) -> None:
    """Log the results to Weights & Biases, in one row."""
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
