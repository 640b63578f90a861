"""Fine-tune a trained digit classifier to letters: old weights, a new head, constraint kept.

The same as `dmn finetune --config letters`, its options set, as a program to read and change:

    python recipes/finetune.py mnist_paired --per-class 10
"""

import argparse
from collections.abc import Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from dmn.data import Letters
from dmn.explain import SplitCAM
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
    Unfreeze,
    initialise,
    progress_bar,
)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", help="weights to start from: a file, or the name of a shipped network"
    )
    parser.add_argument(
        "--per-class",
        type=int,
        default=30,
        help="number of training images of each letter (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=24,
        help="how often to go through the training letters (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=0.01,
        help="the head's highest one; each layer below gets 0.7 of the one above it "
        "(default: %(default)s)",
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
    """Start from the checkpoint's weights, train on, and check that it is still monotone."""
    options = parse(args)
    pl.seed_everything(0)
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
    # Letters have ten classes as digits have, but other ones: the head starts anew.
    print(initialise(net, options.checkpoint, fresh_head=True))
    task = ClassificationTask(
        net,
        optimizer=partial(torch.optim.Adam, lr=options.learning_rate),
        lr_scheduler=OneCycle,
        explainers={"splitcam": partial(SplitCAM, layer="stage2_1", stream="g")},
        layer_decay=0.7,
    )
    callbacks = [
        ProjectNonnegative(),  # after each step, so that the network stays monotone
        Unfreeze(head_epochs=1),
        HeatmapLogger(),
        QuantusLogger(),
        ModelCheckpoint(filename="best", monitor="val/acc", mode="max", save_last=True),
        RunSummary(),
        progress_bar(),
    ]
    with tracking(Run(name="recipe", root=options.root), job="finetune") as loggers:
        trainer = Trainer(
            max_epochs=options.epochs,
            logger=loggers,
            callbacks=callbacks,
            gradient_clip_val=1.0,
            limit_train_batches=options.batches,
            limit_val_batches=options.batches,
            log_every_n_steps=1,
        )
        trainer.fit(task, Letters(options.per_class))
    assert_monotone(net)


if __name__ == "__main__":
    main()
