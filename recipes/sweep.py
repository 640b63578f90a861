"""Run a sweep here, without an account: every combination of a Weights & Biases sweep file (grid).

    python recipes/sweep.py configs/sweeps/mnist.yaml --table docs/research/ablation/mnist.csv
    wandb sweep configs/sweeps/mnist.yaml       # the same file, by Weights & Biases' agents

A row is added to the table as each run ends; what is in it is not run again. Runs that fail have no
row: they are named at the end, and the exit code is 1.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from subprocess import DEVNULL
from threading import Lock
from typing import Any

from dmn.cli.config import read_config
from dmn.cli.messages import refusals_in_one_line
from dmn.io.options import require_output
from dmn.io.reading import regular
from dmn.io.text import cell, plain
from dmn.io.writing import write_whole

COMMAND = [sys.executable, "-c", "from dmn.cli.main import main; main()"]
RESULTS = ("val_acc_last", "val_acc_best", "test_acc", "seconds")
writing = Lock()


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("sweep", type=Path, help="YAML file of the sweep, as W&B has them")
    parser.add_argument("--table", type=Path, required=True, help="CSV of results, added to")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of a thread each")
    parser.add_argument("--root", default="runs/sweeps", help="folder of the runs")
    parser.add_argument("--test", action="store_true", help="test the best checkpoints, at the end")
    return parser.parse_args(args)


def dmn(*args: str) -> bool:
    """Run the command in a process of its own; whether that went well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*COMMAND, *args], env=environment, stdout=DEVNULL).returncode == 0


def summary(runs: Path) -> dict[str, Any]:
    """Read what the newest run in a folder has left of itself."""
    newest = max(runs.glob("version_*"), key=lambda run: int(run.name.removeprefix("version_")))
    found: dict[str, Any] = json.loads(regular(newest / "summary.json").read_text(encoding="utf-8"))
    return found


def read(table: Path) -> list[dict[str, str]]:
    """Read a CSV file's rows."""
    return list(csv.DictReader(regular(table).read_text(encoding="utf-8").splitlines()))


def line(cells: Iterable[str]) -> str:
    """Write a row of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(cell, cells))
    return text.getvalue()


def run(options: argparse.Namespace, given: list[str], label: str, values: dict[str, str]) -> bool:
    """Train with these values, and add a row; whether that was done."""
    own = [*given, *(f"--{key}={value}" for key, value in values.items())]
    own += ["--run.root", options.root, "--run.name", f"{options.sweep.stem}/{label}"]
    if not dmn("fit", *own):
        return False
    runs = Path(options.root, options.sweep.stem, label)
    trained = summary(runs)
    rows = read(Path(trained["metrics_file"]))
    accuracies = [float(row["val/acc"]) for row in rows if row["val/acc"]]
    shown = [f"{accuracies[-1]:.4f}", f"{max(accuracies):.4f}", ""]
    if options.test:
        if not dmn("test", *own, "--ckpt_path", f"{trained['checkpoints']}/best.ckpt"):
            return False
        shown[2] = f"{summary(runs / 'test')['metrics']['test/acc']:.4f}"
    results = (*shown, f"{trained['seconds']['total']:.0f}")
    with writing:
        table = options.table.read_text(encoding="utf-8")
        write_whole(options.table, table + line([*values.values(), *results]))
    print(plain(label), *results, flush=True)
    return True


def main(args: Sequence[str] | None = None) -> None:
    """Run what the table lacks."""
    options = parse(args)
    with refusals_in_one_line():
        require_output("--table", str(options.table), ".csv", [str(options.sweep)])
        sweep = read_config(options.sweep)
    given = [each for each in sweep["command"] if each not in ("${env}", "dmn", "fit", "${args}")]
    grid = {key: told.get("values") or [told["value"]] for key, told in sweep["parameters"].items()}
    if not os.path.isfile(options.table):
        write_whole(options.table, line([*grid, *RESULTS]))
    done = [tuple(row.values())[: len(grid)] for row in read(options.table)]
    wanted = [tuple(map(str, values)) for values in product(*grid.values())]
    lacking = [values for values in wanted if tuple(map(cell, values)) not in done]
    named = [dict(zip(grid, values, strict=True)) for values in lacking]
    varied = [key for key, values in grid.items() if len(values) > 1]
    labels = ["-".join(values[key] for key in varied) for values in named]
    with ThreadPoolExecutor(options.workers) as pool:
        ended = list(pool.map(partial(run, options, given), labels, named))
    if failed := [plain(label) for label, done in zip(labels, ended, strict=True) if not done]:
        sys.exit(
            f"{len(failed)} of {len(labels)} runs failed, for the reasons above: "
            f"{', '.join(failed)}; the same command runs them again"
        )


if __name__ == "__main__":
    main()
