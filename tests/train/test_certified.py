"""The callback logs the share of validation images that are certain."""

import pytest
import torch
from train_problem import Halves, make_task

from dmn.errors import OptionError, UnsupportedError
from dmn.evaluate.certified import CertifiedAccuracy
from dmn.train import ClassificationTask, LogCertifiedAccuracy


class Record(LogCertifiedAccuracy):
    """Keep what was logged in each epoch."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.logged = []

    def on_validation_epoch_end(self, trainer, pl_module):
        super().on_validation_epoch_end(trainer, pl_module)
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


@pytest.mark.parametrize("images", [None, 20])
def test_it_logs_what_the_metric_says(make_trainer, images):
    task, data = make_task(), Halves()
    callback = Record([0.001, 0.02], images)
    make_trainer(callback).fit(task, data)
    x, y, _ = data.parts.tensors
    for eps in (0.001, 0.02):
        metric = CertifiedAccuracy(eps)
        metric.update(task.net, x[:images], y[:images])
        assert callback.logged[-1][f"certified/acc@{eps:g}"] == pytest.approx(
            float(metric.compute())
        )
    assert callback.logged[-1]["certified/acc@0.001"] > 0


def test_it_logs_every_nth_epoch_and_nothing_unless_asked(make_trainer):
    callback = Record([0.01], every_n_epochs=2)
    make_trainer(callback, num_sanity_val_steps=0, max_epochs=3).fit(make_task(), Halves())
    assert [("certified/acc@0.01" in each) for each in callback.logged] == [False, True, True]
    silent = Record()
    make_trainer(silent).fit(make_task(), Halves())
    assert not any(name.startswith("certified") for name in silent.logged[-1])


def test_a_network_without_rules_is_refused_before_the_first_epoch(make_trainer):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 2))
    trainer = make_trainer(LogCertifiedAccuracy([0.01]))
    with pytest.raises(UnsupportedError, match="LayerNorm"):
        trainer.fit(ClassificationTask(net, num_classes=2), Halves())
    assert trainer.global_step == 0


def test_options_are_checked():
    with pytest.raises(OptionError, match=r"eps is -0\.1"):
        LogCertifiedAccuracy([-0.1])
    with pytest.raises(OptionError, match="images is 0"):
        LogCertifiedAccuracy([0.1], images=0)
