"""Schedules over a run of any number of steps, and going on with one as it was planned."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from train_problem import make_task

from dmn.errors import CheckpointError, OptionError
from dmn.train import OneCycle
from dmn.train.schedule import make_schedule, steps_in_checkpoint

LAST = "last.ckpt"
BATCHES = 3  # of the small problem


def rates_of(schedule_of, steps, peak=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = schedule_of(optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()  # after the last step, too, as Lightning does
    return rates


@given(st.integers(1, 40), st.sampled_from([0, 0.1, 0.2, 0.25, 1 / 3, 0.5]))
def test_a_cycle_fits_any_number_of_steps(steps, warmup):
    rates = rates_of(partial(OneCycle, warmup=warmup), steps)
    peak = rates.index(max(rates))
    assert 0.2 < max(rates) <= 0.5 + 1e-12
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) >= 0


def test_a_single_step_is_taken_at_the_full_rate():
    assert rates_of(OneCycle, 1) == [pytest.approx(0.5)]


@pytest.mark.parametrize("warmup", [1, 1.5, -0.1, float("nan")])
def test_a_warmup_is_a_share(warmup):
    with pytest.raises(OptionError, match=r"warmup is .*; give a share of the steps, from 0 to"):
        rates_of(partial(OneCycle, warmup=warmup), 10)


def task_with(schedule):
    task = make_task(explainers={})
    task._lr_scheduler = schedule
    return task


SHORT = {
    "one batch": ({"max_epochs": 1, "limit_train_batches": 1}, 1),
    "two batches": ({"max_epochs": 1, "limit_train_batches": 2}, 2),
    "one batch an epoch": ({"max_epochs": 3, "limit_train_batches": 1}, 3),
    "a step": ({"max_epochs": -1, "max_steps": 1}, 1),
    "two epochs less a step": ({"max_epochs": 2, "max_steps": 5}, 5),  # a warm-up of one step
    "more batches accumulated than there are": ({"max_epochs": 2, "accumulate_grad_batches": 8}, 2),
    "a trial": ({"fast_dev_run": True}, 1),
}
SCHEDULES = {
    "cycle": OneCycle,
    "cosine": lr_scheduler.CosineAnnealingLR,
    "polynomial": lambda optimizer, steps: lr_scheduler.PolynomialLR(optimizer, steps),
    "none": None,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("what", SHORT)
def test_the_shortest_runs_train(what, schedule, data, make_trainer):
    options, steps = SHORT[what]
    task = task_with(SCHEDULES[schedule])
    before = [parameter.detach().clone() for parameter in task.parameters()]
    trainer = make_trainer(**options)
    trainer.fit(task, data)
    assert trainer.global_step == steps
    pairs = zip(before, task.parameters(), strict=True)
    assert (
        max(float((new.detach() - old).abs().max()) for old, new in pairs) > 0.01
    )  # at rates of up to .05


ENDLESS = {
    "no batches": ({"max_epochs": 1, "limit_train_batches": 0}, "no training step.*batches 0"),
    "no steps": ({"max_epochs": 1, "max_steps": 0}, "no training step.*max_steps 0"),
    "no end": ({"max_epochs": -1}, "has no end.*set trainer.max_epochs or trainer.max_steps"),
}


@pytest.mark.torture("a schedule over a run with {what}", "refused before training")
@pytest.mark.parametrize("what", ENDLESS)
def test_a_run_without_steps_or_end_has_no_schedule(what, data, make_trainer, happened):
    options, message = ENDLESS[what]
    with pytest.raises(OptionError, match=message) as told:
        make_trainer(**options).fit(task_with(OneCycle), data)
    assert "\n" not in str(told.value)
    happened(str(told.value))


@pytest.mark.parametrize(
    "wrong", [lr_scheduler.LinearLR, lr_scheduler.LambdaLR, lambda optimizer: None]
)
def test_a_scheduler_that_takes_no_number_of_steps_is_refused(wrong):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    with pytest.raises(OptionError, match=r"lr_scheduler cannot be made for 7 steps: .*; give"):
        make_schedule(wrong, optimizer, 7)


@pytest.mark.parametrize("schedule", ["cycle", "cosine", "polynomial"])
@pytest.mark.parametrize(
    "change", [{"max_epochs": 1}, {"max_epochs": 5}, {"accumulate_grad_batches": 3}]
)
def test_any_schedule_is_resumed_with_the_steps_it_had(
    schedule, change, data, make_trainer, tmp_path
):
    first = make_trainer(max_epochs=2)
    first.fit(task_with(SCHEDULES[schedule]), data)
    first.save_checkpoint(tmp_path / LAST)
    with pytest.raises(CheckpointError, match="planned for 6 steps, now it would have"):
        make_trainer(**{"max_epochs": 2, **change}).fit(
            task_with(SCHEDULES[schedule]), data, ckpt_path=tmp_path / LAST
        )


def test_without_a_schedule_a_run_may_become_longer(data, make_trainer, tmp_path):
    first = make_trainer(max_epochs=1)
    first.fit(task_with(None), data)
    first.save_checkpoint(tmp_path / LAST)
    longer = make_trainer(max_epochs=2)
    longer.fit(task_with(None), data, ckpt_path=tmp_path / LAST)
    assert longer.global_step == 2 * BATCHES


@pytest.mark.parametrize(
    ("checkpoint", "steps"),
    [
        ({"planned_steps": 4, "lr_schedulers": [{"total_steps": 9}]}, 4),
        ({"lr_schedulers": [{"total_steps": 9}]}, 9),
        ({"lr_schedulers": [{"T_max": 9}]}, None),
        ({"lr_schedulers": []}, None),
        ({"lr_schedulers": 3, "planned_steps": "9"}, None),
        ({}, None),
    ],
)
def test_steps_are_read_from_checkpoints_of_any_age(checkpoint, steps):
    assert steps_in_checkpoint(checkpoint) == steps


def test_one_cycle_peaks_at_the_optimizers_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = OneCycle(optimizer, 50, warmup=0.2)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < 50:
            schedule.step()
    assert max(rates) == pytest.approx(0.3)
    assert rates.index(max(rates)) == 9
    assert rates[-1] < 0.001


def test_the_schedule_spans_the_run(task, data, make_trainer):
    trainer = make_trainer(max_epochs=3)
    trainer.fit(task, data)
    (scheduler,) = trainer.lr_scheduler_configs
    assert scheduler.interval == "step"
    assert scheduler.scheduler.total_steps == trainer.global_step == 9


@pytest.mark.torture(
    "a run is resumed with more epochs than it was planned for", "refused, with both numbers"
)
def test_a_schedule_is_resumed_as_it_was_planned(data, make_trainer, tmp_path, happened):
    make_trainer(max_epochs=2).fit(task := make_task(), data)
    task.trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="planned for 6 steps, now it would have 9") as told:
        make_trainer(max_epochs=3).fit(make_task(), data, ckpt_path=tmp_path / "last.ckpt")
    happened(str(told.value))
