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
from dmn.tracking import Run, tracking
from dmn.train import (
    ClassificationTask,
    HeatmapLogger,
    OneCycle,
    ProjectNonnegative,
    QuantusLogger,
    RunSummary,
    Trainer,
    progress_bar,
)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--inputs",
        choices=["paired", "inverted", "plain"],
        default="paired",
        help="what g and h see: both [x, 1 - x]; g x and h 1 - x; or both x (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=24,
        help="how often to go through the training digits (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=0.01,
        help="the highest one of the one-cycle schedule, for Adam (default: %(default)s)",
    )
    parser.add_argument(
        "--batches",
        type=float,
        default=1.0,
        help="share of an epoch's batches, or, from 2 on, their number (default: %(default)s)",
    )
    parser.add_argument(
        "--root", default="runs", help="folder in which the run gets its own (default: %(default)s)"
    )
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Train, and check that what was trained is monotone."""
    options = parse(args)
    pl.seed_everything(0)
    make_network = partial(
        MonotoneConvNet,
        in_channels=2 if options.inputs == "paired" else 1,
        residual=True,
        units=1,
        kernel=7,
        activation="convex_concave",  # half of the units are concave
        pool="max_min",
    )
    net = DifferenceOfMonotone(g=make_network(), h=make_network(), inputs=options.inputs, margin=3)
    task = ClassificationTask(
        net,
        optimizer=partial(torch.optim.Adam, lr=options.learning_rate),
        lr_scheduler=OneCycle,
        explainers={
            "splitcam": partial(SplitCAM, layer="stage2_1", stream="g"),
            "splitgrad": partial(SplitGrad, stream="g"),
            "splitlrp": partial(SplitLRP, stream="g"),
        },
        label_smoothing=0.1,
    )
    callbacks = [
        ProjectNonnegative(),  # after each step, so that the network stays monotone
        HeatmapLogger(),
        QuantusLogger(),
        ModelCheckpoint(filename="best", monitor="val/acc", mode="max", save_last=True),
        RunSummary(),
        progress_bar(),
    ]
    with tracking(Run(name="recipe", root=options.root)) as loggers:
        trainer = Trainer(
            max_epochs=options.epochs,
            logger=loggers,
            callbacks=callbacks,
            gradient_clip_val=1.0,
            limit_train_batches=options.batches,
            limit_val_batches=options.batches,
            log_every_n_steps=1,
        )
        trainer.fit(task, MNIST())
    assert_monotone(net)


if __name__ == "__main__":
    main()
