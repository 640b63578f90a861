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
from dmn.train import (
    ClassificationTask,
    HeatmapLogger,
    OneCycle,
    ProjectNonnegative,
    QuantusLogger,
    Run,
    RunSummary,
    Trainer,
    Unfreeze,
    initialise,
    progress_bar,
    tracking,
)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="file of weights, or a shipped network's name")
    parser.add_argument("--per-class", type=int, default=30, help="training images of a letter")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--batches", type=float, default=1.0, help="share or number of an epoch's")
    parser.add_argument("--root", default="runs", help="folder of all runs")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Start from the checkpoint's weights, train on, and check that it is still monotone."""
    options = parse(args)
    pl.seed_everything(0)
    network = partial(MonotoneConvNet, 2, residual=True, units=1, kernel=7)
    g, h = (network(activation="convex_concave", pool="max_min") for _ in range(2))
    net = DifferenceOfMonotone(g, h, "paired", margin=3)
    print(initialise(net, options.checkpoint, fresh_head=True))  # as many classes, but others
    task = ClassificationTask(
        net,
        optimizer=partial(torch.optim.Adam, lr=options.learning_rate),
        lr_scheduler=OneCycle,
        explainers={"splitcam": partial(SplitCAM, layer="stage2_1", stream="g")},
        layer_decay=0.7,
    )
    best = ModelCheckpoint(filename="best", monitor="val/acc", mode="max", save_last=True)
    callbacks = [ProjectNonnegative(), Unfreeze(head_epochs=1), HeatmapLogger(), QuantusLogger()]
    with tracking(Run(name="recipe", root=options.root), job="finetune") as loggers:
        trainer = Trainer(
            max_epochs=options.epochs,
            logger=loggers,
            callbacks=[*callbacks, best, RunSummary(), progress_bar()],
            gradient_clip_val=1.0,
            limit_train_batches=options.batches,
            limit_val_batches=options.batches,
            log_every_n_steps=1,
        )
        trainer.fit(task, Letters(options.per_class))
    assert_monotone(net)


if __name__ == "__main__":
    main()
