"""Fine-tune a trained digit classifier: new optimizer, old weights, constraint kept.

The same as `dmn finetune --config mnist --init_from CHECKPOINT`, as a program to read and change:

    python recipes/finetune.py runs/recipe/version_0/checkpoints/best.ckpt
    python recipes/finetune.py weights.safetensors --fold 1 --learning-rate 0.001
"""

import argparse
from collections.abc import Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from dmn.data import MNIST
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
    initialise,
    progress_bar,
    tracking,
)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="Lightning checkpoint or state dict of the network")
    parser.add_argument("--fold", type=int, default=0, help="which digits are the test set")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--batches", type=float, default=1.0, help="share or number of an epoch's")
    parser.add_argument("--root", default="runs", help="folder of all runs")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Start from the checkpoint's weights, train on, and check that it is still monotone."""
    options = parse(args)
    pl.seed_everything(0)
    g, h = (MonotoneConvNet(2, units=1, residual=True) for _ in range(2))
    net = DifferenceOfMonotone(g, h, "paired")
    print(initialise(net, options.checkpoint))  # what fitted, what is missing, what was replaced
    task = ClassificationTask(
        net,
        optimizer=partial(torch.optim.Adam, lr=options.learning_rate),
        lr_scheduler=OneCycle,
        explainers={"splitcam": partial(SplitCAM, layer="stage2_1", stream="g")},
    )
    best = ModelCheckpoint(filename="best", monitor="val/acc", mode="max", save_last=True)
    callbacks = [ProjectNonnegative(), HeatmapLogger(), QuantusLogger(), best, RunSummary()]
    with tracking(Run(name="recipe", root=options.root), job="finetune") as loggers:
        trainer = Trainer(
            max_epochs=options.epochs,
            logger=loggers,
            callbacks=[*callbacks, progress_bar()],
            gradient_clip_val=1.0,
            limit_train_batches=options.batches,
            limit_val_batches=options.batches,
            log_every_n_steps=1,
        )
        trainer.fit(task, MNIST(fold=options.fold))
    assert_monotone(net)


if __name__ == "__main__":
    main()
