import torch
from rich.console import Console
from torch import nn
from train_problem import make_task

from dmn.nn import assert_monotone, constrained
from dmn.train import ParameterSummary, parameter_table


def shown(model):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(parameter_table(model))
    return capture.get()


def test_the_constraint_holds_after_every_step(data, make_trainer):
    import pytorch_lightning as pl

    class Check(pl.Callback):
        steps = 0

        def on_train_batch_end(self, trainer, pl_module, *_):
            assert_monotone(pl_module)
            Check.steps += 1

    trainer = make_trainer(Check())
    trainer.fit(make_task(), data)
    assert Check.steps == trainer.global_step == 6


def test_the_constraint_is_logged(data, make_trainer):
    task = make_task()
    trainer = make_trainer()
    trainer.fit(task, data)
    assert trainer.callback_metrics["constraint/min_weight"] >= 0
    weights = torch.cat([item.weight.detach().flatten() for item in constrained(task)])
    fraction = trainer.callback_metrics["constraint/zero_fraction"]
    assert 0 < fraction < 1
    assert fraction >= (weights == 0).float().mean() - 1e-6


def test_a_free_network_is_left_alone(data, make_trainer):
    task = make_task(constraint="none")
    trainer = make_trainer()
    trainer.fit(task, data)
    assert "constraint/min_weight" not in trainer.callback_metrics
    assert task.net.g.net.stem.conv.weight.min() < 0


def test_the_summary_shows_which_parameters_are_constrained(capsys, data, make_trainer):
    task = make_task()
    make_trainer(ParameterSummary(), max_epochs=1).fit(task, data)
    text = capsys.readouterr().out
    for name, parameter in task.named_parameters():
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        if name.endswith("norm.weight"):
            assert ">= 0.001, projected" in line
        elif name.endswith("weight"):
            assert ">= 0, projected" in line
        else:
            assert "free" in line
        assert f"{parameter.numel():,}" in line
    assert f"{sum(p.numel() for p in task.parameters()):,}" in text


def test_the_summary_of_reparametrised_and_free_networks():
    assert ">= 0, reparametrised" in shown(make_task(constraint="softplus"))
    assert ">=" not in shown(nn.Linear(2, 2))
