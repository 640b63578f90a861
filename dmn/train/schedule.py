"""Learning rates over the steps of a run, and how many steps that are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from dmn.errors import CheckpointError, OptionError

SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
LEAST_STEPS = 2  # OneCycleLR divides by one less
TINY = 1e-6  # of a step


class OneCycle(OneCycleLR):
    """Warm up to the optimizer's learning rate, then anneal to nearly zero.

    A run of a single step takes it at the optimizer's learning rate.

    Args:
        optimizer: The optimizer; its learning rate is the peak.
        total_steps: Optimizer steps of the whole run; the task sets it.
        warmup: Share of the steps for the warm-up, at least 0 and below 1.

    Raises:
        OptionError: if `warmup` is out of this range.

    Examples:
        >>> import torch
        >>> from dmn.models import PlainCNN
        >>> from dmn.train import ClassificationTask, OneCycle
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> round(OneCycle(optimizer, total_steps=100).get_last_lr()[0], 4)  # a 25th of the peak
        0.004
        >>> task = ClassificationTask(PlainCNN(), lr_scheduler=OneCycle)
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.2) -> None:
        if not 0 <= warmup < 1:
            raise OptionError(f"warmup is {warmup}; give a share of the steps, from 0 to below 1")
        peaks = [group["lr"] for group in optimizer.param_groups]
        steps = max(total_steps, LEAST_STEPS)
        if total_steps == 1 or math.isclose(warmup * total_steps, 1, abs_tol=TINY):
            warmup = (1 - TINY) / steps  # over before the first step, which OneCycleLR needs
        super().__init__(optimizer, peaks, steps, pct_start=float(warmup))


def planned_steps(trainer: pl.Trainer) -> int:
    """Return the number of optimizer steps in the whole run.

    Raises:
        OptionError: if there are none, or no end of them.
    """
    steps = trainer.estimated_stepping_batches
    if steps == math.inf:
        raise OptionError(
            "the run has no end, by which the learning rate is scheduled; set trainer.max_epochs "
            "or trainer.max_steps, or leave the schedule out by --model.lr_scheduler null"
        )
    if steps < 1:
        raise OptionError(
            f"the run has no training step: trainer.max_epochs is {trainer.max_epochs}, max_steps "
            f"{trainer.max_steps}, limit_train_batches {trainer.limit_train_batches}; give each "
            "at least 1, or leave it out"
        )
    return int(steps)


def make_schedule(factory: SchedulerFactory, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Make a scheduler of the run's number of steps.

    Raises:
        OptionError: if it takes no such number.
    """
    try:
        return factory(optimizer, steps)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"model.lr_scheduler cannot be made for {steps} steps: {error}; give one that takes "
            "the number of steps after the optimizer, such as dmn.train.OneCycle or "
            "torch.optim.lr_scheduler.CosineAnnealingLR"
        ) from error


def steps_in_checkpoint(checkpoint: Mapping[str, Any]) -> int | None:
    """Return how many steps the run of a checkpoint was planned for; None if it does not say."""
    match checkpoint:
        case {"planned_steps": int(steps)}:
            return steps
        case {"lr_schedulers": [{"total_steps": int(steps)}, *_]}:  # before there was the key
            return steps
    return None


def check_same_steps(before: int | None, now: int) -> None:
    """Refuse to go on with a schedule that was made for another number of steps.

    Raises:
        CheckpointError: names both numbers.
    """
    if before is not None and before != now:
        raise CheckpointError(
            f"the run was planned for {before} steps, now it would have {now}; resume it with the "
            "epochs, batches and devices that it had, or train on from its weights by "
            "`dmn finetune --init_from last`"
        )
