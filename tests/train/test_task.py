import pytest
import torch
from torch.nn import functional as F
from train_problem import make_task

from dmn.errors import CheckpointError
from dmn.train import OneCycle


def test_training_learns_and_stays_monotone(task, data, make_trainer):
    from dmn.nn import assert_monotone

    trainer = make_trainer(max_epochs=12)
    trainer.fit(task, data)
    assert trainer.callback_metrics["val/acc"] == 1.0
    assert_monotone(task)


def test_metrics_are_those_of_the_whole_set(task, data, make_trainer):
    trainer = make_trainer()
    trainer.test(task, data, verbose=False)
    x, y, _ = data.parts.tensors
    task.eval()
    with torch.no_grad():
        logits = task(x)
    assert trainer.callback_metrics["test/acc"] == (logits.argmax(1) == y).float().mean()
    loss = F.cross_entropy(logits, y)
    assert trainer.callback_metrics["test/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_calibration_is_logged_on_demand(data, make_trainer):
    from dmn.train import ClassificationTask

    task = ClassificationTask(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)),
        num_classes=2,
        calibration=True,
    )
    trainer = make_trainer()
    trainer.fit(task, data)
    assert 0 <= trainer.callback_metrics["val/calibration_error"] <= 1


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
