"""Make a report, or a workspace, in Weights & Biases for runs that have been sent there.

    python recipes/wandb_report.py runs/mnist/version_0 --dry-run
    wandb sync runs/mnist/version_0/wandb/offline-run-*
    python recipes/wandb_report.py runs/mnist/version_0 runs/compare/mnist --entity me
    python recipes/wandb_report.py runs/compare/mnist --entity me --workspace

Each metric of explanations gets one panel with every run's self-explanations and, from the folder
of a comparison, every other method's. --dry-run prints sections, panels and regular expressions,
and needs neither an account nor a package. Otherwise: pip install wandb-workspaces
"""

import argparse
import csv
import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dmn.cli.messages import refusals_in_one_line
from dmn.compare.summary import arrow
from dmn.errors import DataError, MissingPackageError, OptionError
from dmn.evaluate import METRICS
from dmn.io.reading import regular
from dmn.io.yaml import write_yaml
from dmn.tracking.wandb import wandb_key

TRAINING = {  # title of a panel: what it shows
    "loss": "^(train|val)/loss$",
    "accuracy": "^(train|val)/acc$",
    "calibration error": "^(train|val)/calibration_error$",
    "constraint": "^constraint/.+",
    "effective rank by layer": "^rank/.+",
}
TITLE = "Self-explanations and other explanations"
COLUMNS = 3  # of panels in a report, whose grid has 24 columns
HEIGHT = 8  # of a panel in that grid


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="folders of trainings and comparisons")
    add("--entity", help="user or team in Weights & Biases")
    add("--project", default="dmn", help="as in --run.project (default: %(default)s)")
    add("--title", default=TITLE, help="of the report or workspace (default: %(default)s)")
    add("--workspace", action="store_true", help="make a workspace instead of a report")
    add("--dry-run", action="store_true", help="print what would be made, and make nothing")
    return parser.parse_args(args)


def keys(run: Path) -> Iterator[str]:
    """Yield what a run's folder says was logged, by the keys in Weights & Biases.

    Args:
        run: The folder of a training, with metrics.csv, or of a comparison, with summary.csv.

    Raises:
        DataError: if it is neither.
    """
    trained, compared = run / "metrics.csv", run / "summary.csv"
    if os.path.isfile(trained):
        names = next(csv.reader(regular(trained).read_text(encoding="utf-8").splitlines()))
        pictures = run.glob("heatmaps/*_epoch_*.png")
        drawn = {path.name.rpartition("_epoch_")[0] for path in pictures}
        names += [f"heatmap/{name}" for name in sorted(drawn)]
    elif os.path.isfile(compared):
        rows = csv.DictReader(regular(compared).read_text(encoding="utf-8").splitlines())
        names = [f"quantus/{row['metric']}/{row['entry']}" for row in rows if row["mean"]]
        names += [f"figures/{path.stem}" for path in sorted(run.glob("figures/*.png"))]
    else:
        raise DataError(
            f"{run} has neither metrics.csv nor summary.csv; give runs/NAME/version_K or "
            "runs/compare/NAME"
        )
    yield from map(wandb_key, names)


def specification(title: str, project: str, logged: Sequence[str]) -> dict[str, Any]:
    """Say which sections and panels there are: lines by a regular expression, bars, pictures."""
    by_metric: dict[str, list[str]] = {}
    for key in logged:
        if found := re.match("quantus/([^/]+)/.+", key):
            by_metric.setdefault(found[1], []).append(key)
    lines, bars = [], []
    for metric, found_keys in by_metric.items():
        shown = f"{metric} {arrow(metric)}" if metric in METRICS else metric
        lines.append({"title": shown, "regex": f"^quantus/{re.escape(metric)}/.+"})
        bars.append({"title": shown, "bars": found_keys})
    training = [
        {"title": name, "regex": regex}
        for name, regex in TRAINING.items()
        if any(re.match(regex, key) for key in logged)
    ]
    pictures = [
        {"title": key.partition("/")[2], "pictures": [key]}
        for key in logged
        if key.startswith(("heatmap/", "figures/"))
    ]
    panels = {
        "Explanations: last scores": bars,
        "Explanations: scores by epoch": lines,
        "Pictures": pictures,
        "Training": training,
    }
    sections = [{"name": name, "panels": found} for name, found in panels.items() if found]
    return {"title": title, "project": project, "sections": sections}


def panel(told: dict[str, Any], place: int) -> Any:
    """Make a panel of Weights & Biases at a place of a report's grid."""
    wr = _package("wandb_workspaces.reports.v2")
    width = 24 // COLUMNS
    row, column = divmod(place, COLUMNS)
    layout = wr.Layout(x=column * width, y=row * HEIGHT, w=width, h=HEIGHT)
    if "regex" in told:
        return wr.LinePlot(title=told["title"], metric_regex=told["regex"], layout=layout)
    if "bars" in told:
        return wr.BarPlot(title=told["title"], metrics=told["bars"], layout=layout)
    return wr.MediaBrowser(title=told["title"], media_keys=told["pictures"], layout=layout)


def report(told: dict[str, Any], entity: str) -> Any:
    """Make a report, not yet saved, with a heading and a grid for each section."""
    wr = _package("wandb_workspaces.reports.v2")
    blocks = []
    for section in told["sections"]:
        panels = [panel(each, place) for place, each in enumerate(section["panels"])]
        runs = wr.Runset(entity=entity, project=told["project"])
        blocks += [wr.H2(section["name"]), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(
        entity=entity, project=told["project"], title=told["title"], blocks=blocks, width="fluid"
    )


def workspace(told: dict[str, Any], entity: str) -> Any:
    """Make a workspace, not yet saved."""
    ws = _package("wandb_workspaces.workspaces")
    sections = [
        ws.Section(
            name=section["name"],
            panels=[panel(each, place) for place, each in enumerate(section["panels"])],
            is_open=True,
        )
        for section in told["sections"]
    ]
    return ws.Workspace(
        entity=entity, project=told["project"], name=told["title"], sections=sections
    )


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"this needs wandb-workspaces ({error}): pip install wandb-workspaces; "
            "--dry-run needs no package"
        ) from error


def main(args: Sequence[str] | None = None) -> None:
    """Print the specification, or make what it says."""
    options = parse(args)
    with refusals_in_one_line():
        logged = dict.fromkeys(key for run in options.runs for key in keys(run))
        told = specification(options.title, options.project, list(logged))
        if options.dry_run:
            print(write_yaml(told), end="")
            return
        if not options.entity:
            raise OptionError("--entity is missing; give your user or team in Weights & Biases")
        make = workspace if options.workspace else report
        made = make(told, options.entity)
        made.save()
        print(f"see {made.url}")


if __name__ == "__main__":
    main()
