"""Train a digit classifier that explains itself, step by step.

The same as `dmn fit --config mnist`, as a program to read and to change:

    python recipes/train.py
    python recipes/train.py --inputs inverted --epochs 40 --learning-rate 0.003
"""

import argparse
from collections.abc import Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from dmn.data import MNIST
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.models import DifferenceOfMonotone, MonotoneConvNet
from dmn.nn import assert_monotone
from dmn.train import (
    ClassificationTask,
    HeatmapLogger,
    OneCycle,
    ProjectNonnegative,
    QuantusLogger,
    Run,
    RunSummary,
    Trainer,
    progress_bar,
    tracking,
)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", choices=["paired", "inverted", "plain"], default="paired")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--batches", type=float, default=1.0, help="share or number of an epoch's")
    parser.add_argument("--root", default="runs", help="folder of all runs")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Train, and check that what was trained is monotone."""
    options = parse(args)
    pl.seed_everything(0)
    network = partial(MonotoneConvNet, 2 if options.inputs == "paired" else 1, residual=True)
    network = partial(network, units=1, kernel=7, activation="convex_concave", pool="max_min")
    net = DifferenceOfMonotone(network(), network(), options.inputs, margin=3)
    maps = {each.__name__.lower(): partial(each, stream="g") for each in (SplitGrad, SplitLRP)}
    task = ClassificationTask(
        net,
        optimizer=partial(torch.optim.Adam, lr=options.learning_rate),
        lr_scheduler=OneCycle,
        explainers={"splitcam": partial(SplitCAM, layer="stage2_1", stream="g"), **maps},
        label_smoothing=0.1,
    )
    best = ModelCheckpoint(filename="best", monitor="val/acc", mode="max", save_last=True)
    callbacks = [ProjectNonnegative(), HeatmapLogger(), QuantusLogger(), best, RunSummary()]
    with tracking(Run(name="recipe", root=options.root)) as loggers:
        trainer = Trainer(
            max_epochs=options.epochs,
            logger=loggers,
            callbacks=[*callbacks, progress_bar()],
            gradient_clip_val=1.0,
            limit_train_batches=options.batches,
            limit_val_batches=options.batches,
            log_every_n_steps=1,
        )
        trainer.fit(task, MNIST())
    assert_monotone(net)


if __name__ == "__main__":
    main()
