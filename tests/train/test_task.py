import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from train_problem import Halves, make_task

from dmn.data import as_batch
from dmn.errors import CheckpointError, DataError, OptionError
from dmn.train import ClassificationTask, HeatmapLogger, QuantusLogger


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


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_binary_cross_entropy_is_that_of_each_logit(data, make_trainer, smoothing):
    net = make_task().net
    task = ClassificationTask(
        net, num_classes=2, loss="binary_cross_entropy", label_smoothing=smoothing
    )
    trainer = make_trainer(max_epochs=1, limit_train_batches=1)
    x, y, _ = (part[:16].double() for part in data.parts.tensors)
    with torch.no_grad():
        probabilities = net.train()(x.float()).sigmoid().double()
    trainer.fit(task, data)
    total = 0.0
    for row, label in zip(probabilities.tolist(), y.tolist(), strict=True):
        for c, p in enumerate(row):
            target = (1 - smoothing) * (c == label) + smoothing / 2
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    assert trainer.callback_metrics["train/loss"] == pytest.approx(total / len(y), rel=1e-4)


def test_an_unknown_loss_is_refused_with_those_there_are():
    with pytest.raises(OptionError, match=r"no loss 'hinge'.*cross_entropy, binary_cross_entropy"):
        ClassificationTask(make_task().net, num_classes=2, loss="hinge")


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


class Fixed(Halves):
    """Halves with other images or labels."""

    def __init__(self, images, labels):
        super().__init__()
        self.parts = [(image, label, image) for image, label in zip(images, labels, strict=True)]


def linear(inputs, outputs=2, **options):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, outputs))
    return ClassificationTask(net, num_classes=2, **options)


@pytest.mark.filterwarnings("error:You have overridden")
@pytest.mark.parametrize("labels", [[0, 1, 2], [-1, 0, 1], [5, 5, 5]])
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_labels_that_are_no_class_are_named(labels, stage, make_trainer):
    data = Fixed(torch.rand(3, 1, 4, 4), torch.tensor(labels))
    message = rf"labels from {min(labels)} to {max(labels)}, the network classes from 0 to 1"
    with pytest.raises(DataError, match=message):
        getattr(make_trainer(), stage)(linear(16), datamodule=data)


@pytest.mark.parametrize("outputs", [1, 3, 10])
def test_another_number_of_logits_is_refused_before_training(outputs, make_trainer):
    data = Fixed(torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1]))
    trainer = make_trainer()
    with pytest.raises(OptionError, match=rf"\(3, {outputs}\) for 3 images, not one logit"):
        trainer.fit(linear(16, outputs), data)
    assert trainer.global_step == 0


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 4)])
def test_images_that_a_network_fails_at_are_told_by_their_size(shape, make_trainer):
    data = Fixed(torch.rand(2, *shape), torch.tensor([0, 1]))
    size = "x".join(map(str, shape))
    with pytest.raises(OptionError, match=rf"fails at images of size {size}: .*data.size") as told:
        make_trainer().fit(linear(16), data)
    assert "\n" not in str(told.value)


OTHERS = {
    "other classes": (["cat", "cow"], "only in the checkpoint: dog; only here: cow"),
    "another order": (["dog", "cat"], "the same names in another order"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_checkpoint_is_for_its_classes(kind, data, make_trainer, tmp_path):
    names, message = OTHERS[kind]
    trainer, path = make_trainer(max_epochs=1), tmp_path / "run.ckpt"
    trainer.fit(linear(64, classes=["cat", "dog"]), data)
    trainer.save_checkpoint(path)
    for stage in ("test", "validate"):
        run = getattr(make_trainer(), stage)
        options = {"datamodule": data, "ckpt_path": path, "verbose": False}
        run(linear(64, classes=["cat", "dog"]), **options)
        run(linear(64), **options)  # which knows no names
        with pytest.raises(CheckpointError, match=message):
            run(linear(64, classes=names), **options)
