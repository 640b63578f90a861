"""Fine-tune a digit classifier to explain itself better, and plot what that costs in accuracy.

Every weight of the penalty is tried by several seeds on validation digits. Test digits are looked
at once: for the first weight, and for the one that ranks ink best within .5 % of its accuracy.

    python recipes/tradeoff.py mnist_paired --seeds 2 --out docs/research/tradeoff
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from dmn import load
from dmn.data import MNIST
from dmn.data.mnist import Digits
from dmn.evaluate import score
from dmn.explain import SplitCAM
from dmn.train import (
    ClassificationTask,
    ExplanationPenalty,
    OneCycle,
    ProjectNonnegative,
    Term,
    Trainer,
)

LAYER = "stage2_1"  # of g, whose SplitCAM is trained and scored
METRICS = {"RelevanceRankAccuracy": "higher", "PixelFlipping": "lower", "Sparseness": "higher"}
TOLERANCE = 0.005  # accuracy that better explanations may cost, at most


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        help="network to start from, trained on fold 0: a checkpoint, a run's folder, or the name "
        "of a shipped network",
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        default=[0.0, 0.1, 0.3, 1.0, 3.0],
        help="weights of the penalty; the first is what others are compared to "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="number of trainings per weight, by different orders of the digits "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=218,
        help="training steps, of 32 digits each; 109 are an epoch (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=100,
        help="number of digits whose explanations are scored (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        default="tradeoff",
        help="path of the table and the plot, without .csv and .png (default: %(default)s)",
    )
    return parser.parse_args(args)


def finetune(data: MNIST, weight: float, options: argparse.Namespace) -> Any:
    """Train on from a checkpoint, with the penalty at a weight; 0 is without it."""
    net = load(options.checkpoint).model.train().requires_grad_()
    terms: dict[str, Term] = {}
    if weight:
        terms["penalty"] = ExplanationPenalty("mask", weight, LAYER)
    task = ClassificationTask(net, partial(torch.optim.Adam, lr=0.002), OneCycle, terms=terms)
    trainer = Trainer(
        max_steps=options.steps,
        callbacks=ProjectNonnegative(),
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data.train_dataloader(), data.val_dataloader())
    return net.cpu().eval()


@torch.no_grad()
def measure(net: Any, digits: Digits, images: int) -> list[float]:
    """Return the accuracy, and the mean of each metric for the first digits' explanations."""
    correct = net(digits.images).argmax(dim=1) == digits.labels
    first = digits.__getitems__(list(range(images)))
    scores = score(METRICS, net, SplitCAM(net, LAYER, "g"), *first)
    return [float(correct.float().mean()), *(values.mean for values in scores.values())]


def plot(mean: pd.DataFrame, spread: pd.DataFrame, file: str) -> None:
    """Draw accuracy against each metric: a point per weight, with standard deviations as bars."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3, sharey=True), METRICS, strict=True):
        axes.errorbar(mean[name], mean.accuracy, spread.accuracy, spread[name], "o-", capsize=3)
        for weight, point in mean.iterrows():
            axes.annotate(f" {weight:g}", (point[name], point.accuracy))
        axes.set(xlabel=f"{name} ({METRICS[name]} is better)", ylabel="validation accuracy")
    figure.savefig(file, dpi=120)


def main(args: Sequence[str] | None = None) -> None:
    """Train with each weight, measure, test the chosen one, and plot."""
    options = parse(args)
    data = MNIST()
    data.setup("fit")
    networks = {}
    rows = []
    for weight in options.weights:
        for seed in range(options.seeds):
            data.seed = seed  # changes the order of the digits; the folds stay as they were made
            net = finetune(data, weight, options)
            networks[weight, seed] = net
            rows.append(["val", weight, seed, *measure(net, data.validation, options.images)])
    table = pd.DataFrame(rows, columns=["part", "weight", "seed", "accuracy", *METRICS])
    by_weight = table.groupby("weight")
    mean = by_weight.mean(numeric_only=True)
    spread = by_weight.std(numeric_only=True)

    reference = options.weights[0]
    accurate = mean[mean.accuracy >= mean.accuracy[reference] - TOLERANCE]
    chosen = accurate.RelevanceRankAccuracy.idxmax()
    for (weight, seed), net in networks.items():
        if weight in (reference, chosen):
            measured = measure(net, data.test, options.images)
            table.loc[len(table)] = ["test", weight, seed, *measured]
    table.to_csv(f"{options.out}.csv", index=False)
    plot(mean, spread, f"{options.out}.png")


if __name__ == "__main__":
    main()
