"""Plot what certainty costs: accuracy in boxes of every size, against scores of the explanation.

A digit is counted at eps if its class is right, and no change of its pixels by at most eps gives
another one. All is measured on the first validation digits.

    python recipes/certainty.py mnist_paired mnist_dm mnist_certified --out docs/research/certainty
"""

import argparse
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dmn import load
from dmn.certify import box, certain
from dmn.data import MNIST
from dmn.evaluate import score
from dmn.explain import SplitLRP

CERTIFIED = 200  # digits
METRICS = {"Sparseness": "higher", "RelevanceRankAccuracy": "higher", "MaxSensitivity": "lower"}


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="+", help="difference networks of digits, by name, run's folder or file"
    )
    parser.add_argument(
        "--eps",
        type=float,
        nargs="+",
        default=[0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1],
        help="largest changes of a pixel (default: %(default)s)",
    )
    parser.add_argument(
        "--at",
        type=float,
        default=0.02,
        help="the change that scores are plotted against, one of --eps (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=24,
        help="number of digits whose explanations are scored (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        default="certainty",
        help="path of the table and the plot, without .csv and .png (default: %(default)s)",
    )
    options = parser.parse_args(args)
    if options.at not in options.eps:
        parser.error(f"--at is {options.at}; give one of --eps")
    return options


def measure(name: str, digits: Any, eps: Sequence[float], images: int) -> dict[str, float]:
    """Return the share of digits that is right for certain at each eps, and the mean scores."""
    net: Any = load(name).model
    x, y = (each[:CERTIFIED] for each in (digits.images, digits.labels))
    right = {str(each): float(certain(net, *box(x, each), y).float().mean()) for each in eps}
    first = digits.__getitems__(list(range(images)))
    explainer = SplitLRP(net, layer="input", stream="g", part="p")
    scores = score(METRICS, net, explainer, *first)
    return {**right, **{metric: values.mean for metric, values in scores.items()}}


def plot(table: pd.DataFrame, eps: Sequence[float], at: float, file: str) -> None:
    """Draw certain accuracy by eps, and against each metric: a colour per network."""
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(METRICS))
    for place, (name, row) in enumerate(table.iterrows()):
        colour = f"C{place}"
        axes[0].plot(eps, [row[str(each)] for each in eps], "o-", color=colour, label=name)
        for panel, metric in zip(axes[1:], METRICS, strict=True):
            panel.plot(row[metric], row[str(at)], "o", color=colour)
    axes[0].set(
        xlabel="eps, largest change of a pixel", ylabel="right for certain", ylim=(-0.03, 1.03)
    )
    axes[0].legend()
    for panel, metric in zip(axes[1:], METRICS, strict=True):
        panel.set(xlabel=f"{metric} ({METRICS[metric]} is better)", ylim=(-0.03, 1.03))
        panel.set_ylabel(f"right for certain at {at}")
    figure.savefig(file, dpi=120)


def main(args: Sequence[str] | None = None) -> None:
    """Measure each network, save the table, and plot."""
    options = parse(args)
    data = MNIST()
    data.setup("fit")
    rows = {
        name: measure(name, data.validation, options.eps, options.images)
        for name in options.networks
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.to_csv(f"{options.out}.csv", index_label="network")
    plot(table, options.eps, options.at, f"{options.out}.png")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
