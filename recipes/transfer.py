"""Fine-tune a network of digits to letters, against the same network trained from scratch.

Both get equal steps, and as many learning rates to choose from by validation letters of one seed;
test letters are looked at once, with the rate that was chosen, for every seed:

    python recipes/transfer.py mnist_paired
"""

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from statistics import mean, stdev

import pytorch_lightning as pl
import torch

from dmn.data import Letters
from dmn.models import DifferenceOfMonotone, MonotoneConvNet
from dmn.train import ClassificationTask, OneCycle, ProjectNonnegative, Trainer, initialise


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", help="weights to start from: a file, or the name of a shipped network"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=5,
        help="how often each training goes through its letters (default: %(default)s)",
    )
    parser.add_argument(
        "--per-class",
        type=int,
        default=30,
        help="number of training images of each letter (default: %(default)s)",
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[0.0003, 0.001, 0.003, 0.01],
        help="learning rates to choose from (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="number of trainings with the chosen rate, at least 2 (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        default="32-true",
        help="Lightning's; bf16-mixed where the processor computes in it (default: %(default)s)",
    )
    return parser.parse_args(args)


def train(start: str | None, rate: float, seed: int, options: argparse.Namespace) -> Trainer:
    """Train on letters, from a checkpoint or from scratch; returns the trainer, done."""
    pl.seed_everything(seed, verbose=False)
    make_network = partial(
        MonotoneConvNet,
        in_channels=2,
        residual=True,
        units=1,
        kernel=7,
        activation="convex_concave",
        pool="max_min",
    )
    net = DifferenceOfMonotone(g=make_network(), h=make_network(), inputs="paired", margin=3)
    if start:
        initialise(net, start, fresh_head=True)
    trainer = Trainer(
        max_epochs=options.epochs,
        check_val_every_n_epoch=options.epochs,  # only the last epoch counts
        precision=options.precision,
        callbacks=[ProjectNonnegative()],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task = ClassificationTask(net, partial(torch.optim.Adam, lr=rate), OneCycle)
    trainer.fit(task, Letters(options.per_class, seed=seed))
    return trainer


def main(args: Sequence[str] | None = None) -> None:
    """Choose the rate of each start on validation letters, test it, and print the table."""
    options = parse(args)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rate_columns = [f"val, {rate:g}" for rate in options.rates]
    columns = ["start", *rate_columns, "steps", "test, mean", "sd"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, start in {"scratch": None, "digits": options.checkpoint}.items():
        first_seed = [train(start, rate, 0, options) for rate in options.rates]
        accuracies = [float(trainer.callback_metrics["val/acc"]) for trainer in first_seed]
        best = accuracies.index(max(accuracies))
        other_seeds = range(1, options.seeds)
        chosen = [
            first_seed[best],
            *(train(start, options.rates[best], seed, options) for seed in other_seeds),
        ]
        test_accuracies = []
        for seed, trainer in enumerate(chosen):
            (metrics,) = trainer.test(trainer.lightning_module, Letters(seed=seed), verbose=False)
            test_accuracies.append(metrics["test/acc"])
        cells = [
            name,
            *(f"{accuracy:.3f}" for accuracy in accuracies),
            str(chosen[0].global_step),
            f"{mean(test_accuracies):.4f}",
            f"{stdev(test_accuracies):.4f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
