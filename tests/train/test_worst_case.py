"""The loss of the worst image in a box, and frozen statistics of batch norm."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.data import MNIST, ImageBatch
from dmn.errors import OptionError
from dmn.models import DifferenceOfMonotone, MonotoneConvNet, PlainCNN
from dmn.train import ClassificationTask, FreezeBatchNorm, Term, Trainer, WorstCaseLoss

QUIET = dict.fromkeys(
    ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
)


def monotone(inputs="paired"):
    channels = 2 if inputs == "paired" else 1
    g, h = (MonotoneConvNet(channels, widths=(4, 6), units=1, grid=2) for _ in range(2))
    return DifferenceOfMonotone(g, h, inputs)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return ImageBatch(torch.rand(6, 1, 28, 28, generator=generator), torch.arange(6))


@pytest.mark.parametrize("make", [monotone, lambda: monotone("inverted"), PlainCNN])
def test_it_bounds_the_loss_of_every_image_in_the_box(make, batch):
    torch.manual_seed(0)
    net, eps = make().eval(), 0.03
    bound = WorstCaseLoss(eps)(net, batch, net(batch.image))
    for _ in range(20):
        moved = (batch.image + eps * (2 * torch.rand_like(batch.image) - 1)).clamp(0, 1)
        assert F.cross_entropy(net(moved), batch.label) <= bound
    at_a_point = WorstCaseLoss(1e-9)(net, batch, net(batch.image))
    torch.testing.assert_close(at_a_point, F.cross_entropy(net(batch.image), batch.label))


def test_it_is_that_of_the_running_statistics_and_changes_none(batch):
    net = monotone().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    in_training = WorstCaseLoss(0.1)(net, batch, torch.zeros(6, 10))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    torch.testing.assert_close(in_training, WorstCaseLoss(0.1)(net.eval(), batch, None))


def test_its_gradient_is_that_of_finite_differences(batch):
    torch.manual_seed(0)
    net = monotone().eval()
    term, weight = WorstCaseLoss(0.02), net.g.net.head.weight
    (gradient,) = torch.autograd.grad(term(net, batch, net(batch.image)), weight)
    direction = torch.randn_like(weight)
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            weight.add_(direction, alpha=step)
            values.append(float(term(net, batch, net(batch.image))))
            weight.add_(direction, alpha=-step)
    expected = (values[0] - values[1]) / 2e-2
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize(
    ("progress", "strength"), [(0.0, 0), (0.2, 0), (0.3, 0.25), (0.6, 1), (1.0, 1)]
)
def test_epsilon_and_weight_rise_together(batch, progress, strength):
    term = WorstCaseLoss(0.1, start=0.2, rise=0.4)
    term.progress = progress
    assert term.strength == pytest.approx(strength)
    net = monotone().eval()
    with torch.no_grad():
        value, logits = term(net, batch, net(batch.image)), net(batch.image)
        full = WorstCaseLoss(0.1 * strength)(net, batch, logits) if strength else 0.0
    assert float(value) == pytest.approx(strength * float(full))


def test_without_a_rise_it_starts_at_once():
    term = WorstCaseLoss(start=0.5, rise=0.0)
    for progress, strength in ((0.49, 0), (0.5, 1)):
        term.progress = progress
        assert term.strength == strength


@pytest.mark.parametrize(
    "options", [{"eps": 0.0}, {"eps": 2.0}, {"start": -0.1}, {"rise": -0.1}, {"start": 0.7}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(OptionError, match=r"eps is|start is"):
        WorstCaseLoss(**options)


class Progress(Term):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __call__(self, net, batch, logits):
        self.seen.append(self.progress)
        return logits.new_zeros(())


def test_the_task_tells_terms_how_far_the_run_is():
    term = Progress()
    task = ClassificationTask(PlainCNN(widths=[4]), terms={"progress": term})
    trainer = Trainer(max_epochs=2, limit_train_batches=3, limit_val_batches=0, **QUIET)
    trainer.fit(task, MNIST(batch_size=4))
    assert term.seen == pytest.approx([step / 6 for step in range(6)])


def test_a_run_without_end_has_full_strength():
    term = Progress()
    task = ClassificationTask(PlainCNN(widths=[4]), terms={"progress": term})
    trainer = Trainer(
        max_epochs=-1, max_time={"seconds": 1}, limit_train_batches=1, limit_val_batches=0, **QUIET
    )
    assert not math.isfinite(trainer.max_steps) or trainer.max_steps == -1
    trainer.fit(task, MNIST(batch_size=4))
    assert set(term.seen) == {1.0}


def test_statistics_are_frozen_from_a_share_of_the_run_on():
    modes = []

    class Watch(Term):
        def __call__(self, net, batch, logits):
            (norm, *_) = (m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
            modes.append((norm.training, int(norm.num_batches_tracked)))
            return logits.new_zeros(())

    task = ClassificationTask(PlainCNN(widths=[4]), terms={"watch": Watch()})
    trainer = Trainer(
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=1,
        callbacks=[FreezeBatchNorm(after=0.25)],
        **QUIET,
    )
    trainer.fit(task, MNIST(batch_size=4))
    assert modes == [(True, 1), (True, 2), *[(False, 2)] * 6]
