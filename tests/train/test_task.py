import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from train_problem import Halves, make_task

from dmn.data import as_batch
from dmn.errors import DataError
from dmn.train import HeatmapLogger, QuantusLogger


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


class WithoutMasks(Halves):
    """Yields what the modules of `dmn.data` yield: batches whose mask is None."""

    def train_dataloader(self):
        return DataLoader(self.parts, 16, collate_fn=lambda rows: as_batch(default_collate(rows)))

    val_dataloader = test_dataloader = train_dataloader


def test_batches_whose_mask_is_none_train_and_are_probed(make_trainer):
    logged = []
    for data in (Halves(masks=False), WithoutMasks(masks=False)):
        trainer = make_trainer(HeatmapLogger(2), QuantusLogger(["Sparseness"], images=3))
        trainer.fit(make_task(), data)
        logged.append({k: v for k, v in trainer.callback_metrics.items() if "time/" not in k})
    assert logged[0] == logged[1]


@pytest.mark.parametrize("wrong", [2, 7, -1, -100])
@pytest.mark.parametrize("job", ["fit", "validate", "test"])
def test_a_label_that_is_no_class_is_named(job, wrong, make_trainer):
    data = Halves()
    data.parts.tensors[1][20] = wrong
    with pytest.raises(DataError, match=f"labels from .*{wrong}.*classes from 0 to 1; set model"):
        getattr(make_trainer(), job)(make_task(), data)
