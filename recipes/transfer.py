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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="file of weights, or a shipped network's name")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=30, help="training images of a letter")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0003, 0.001, 0.003, 0.01])
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--precision", default="32-true", help="e.g. bf16-mixed, where it is fast")
    return parser.parse_args(args)


def train(start: str | None, rate: float, seed: int, options: argparse.Namespace) -> Trainer:
    """Train on letters, from a checkpoint or from scratch; returns the trainer, done."""
    pl.seed_everything(seed, verbose=False)
    network = partial(MonotoneConvNet, 2, residual=True, units=1, kernel=7)
    g, h = (network(activation="convex_concave", pool="max_min") for _ in range(2))
    net = DifferenceOfMonotone(g, h, "paired", margin=3)
    if start:
        initialise(net, start, fresh_head=True)
    trainer = Trainer(
        max_epochs=options.epochs,
        check_val_every_n_epoch=options.epochs,  # the last alone counts
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
    """Choose each start's rate on validation letters, then test it, and print the table."""
    options = parse(args)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    columns = ["start", *(f"val, {rate:g}" for rate in options.rates), "steps", "test, mean", "sd"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, start in {"scratch": None, "digits": options.checkpoint}.items():
        runs = [train(start, rate, 0, options) for rate in options.rates]
        validated = [float(run.callback_metrics["val/acc"]) for run in runs]
        best = validated.index(max(validated))
        seeds = range(1, options.seeds)
        chosen = [
            runs[best],
            *(train(start, options.rates[best], s, options) for s in seeds),
        ]
        scores = [
            run.test(run.lightning_module, Letters(seed=seed), verbose=False)[0]["test/acc"]
            for seed, run in enumerate(chosen)
        ]
        cells = [name, *(f"{value:.3f}" for value in validated), str(chosen[0].global_step)]
        print(f"| {' | '.join(cells)} | {mean(scores):.4f} | {stdev(scores):.4f} |", flush=True)


if __name__ == "__main__":
    main()
