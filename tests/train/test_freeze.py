import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from train_problem import Halves, make_task

from dmn.models.ordinary import PlainCNN
from dmn.nn import assert_monotone
from dmn.train import ClassificationTask, Unfreeze, layer_names


class Snapshots(pl.Callback):
    """Keep a copy of the weights at the start and after each epoch."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, pl_module):
        self.keep(pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        self.keep(pl_module)

    def keep(self, task):
        self.states.append({key: value.clone() for key, value in task.net.state_dict().items()})


def changed_layers(net, before, after):
    """Return which layers differ, in a parameter or a buffer."""
    differs = {key.rpartition(".")[0] for key in before if not before[key].equal(after[key])}
    return [index for index, names in enumerate(layer_names(net)) if differs & set(names)]


def ordinary():
    torch.manual_seed(0)
    net = PlainCNN(widths=(4, 4, 4), grid=1, num_classes=2)
    return ClassificationTask(net, num_classes=2)


TASKS = {
    "pair": make_task,
    "reparametrised": lambda: make_task(constraint="square"),
    "ordinary": ordinary,
}


@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_layers_thaw_from_the_last_and_stay_bit_equal_until_then(make, make_trainer):
    task, seen = make(), Snapshots()
    options = {"max_epochs": 4, "gradient_clip_val": 1.0}
    make_trainer(Unfreeze(head_epochs=2, layers_per_epoch=2), seen, **options).fit(task, Halves())
    pairs = zip(seen.states, seen.states[1:], strict=False)
    changed = [changed_layers(task.net, *states) for states in pairs]
    assert changed == [[3], [3], [1, 2, 3], [0, 1, 2, 3]]
    assert all(module.training for module in task.modules())
    if make is not ordinary:
        assert_monotone(task)


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, [0, 0, 0]),
        ({"head_epochs": 2}, [4, 4, 0, 0]),
        ({"head_epochs": 1, "layers_per_epoch": 1}, [4, 3, 2, 1, 0, 0]),
        ({"head_epochs": 1, "layers_per_epoch": 3}, [4, 1, 0]),
        ({"layers_per_epoch": 2}, [2, 0]),
    ],
)
def test_what_is_frozen_follows_from_the_epoch(options, frozen):
    unfreeze = Unfreeze(**options)
    assert [unfreeze.frozen_layers(epoch, 5) for epoch in range(len(frozen))] == frozen


def test_by_default_nothing_changes(make_trainer):
    states = []
    for callbacks in ([], [Unfreeze()]):
        task = make_task()
        make_trainer(*callbacks).fit(task, Halves())
        states.append(task.net.state_dict())
    assert all(value.equal(states[1][key]) for key, value in states[0].items())


def test_frozen_layers_do_not_count_for_clipping(make_trainer):
    """What is clipped is the gradient of the head, as if there were no other."""
    norms = []

    class Norms(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norms.append((len(grads), float(torch.stack([g.norm() for g in grads]).norm())))

    make_trainer(Unfreeze(head_epochs=1), Norms(), max_epochs=1, gradient_clip_val=1e-3).fit(
        make_task(), Halves()
    )
    assert norms
    for count, norm in norms:
        assert count == 4  # weight and bias of two heads
        assert norm == pytest.approx(1e-3, rel=1e-2)


def save_every(steps, folder):
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=steps, save_top_k=-1)


def test_a_run_that_is_resumed_ends_with_the_same_weights(make_trainer, tmp_path):
    def trainer():
        callbacks = [Unfreeze(head_epochs=1, layers_per_epoch=1), save_every(3, tmp_path)]
        return make_trainer(*callbacks, max_epochs=4, enable_checkpointing=True)

    whole, resumed = make_task(), make_task(seed=5)
    trainer().fit(whole, Halves())
    cut = tmp_path / "step=6.ckpt"  # after two of four epochs
    trainer().fit(resumed, Halves(), ckpt_path=cut, weights_only=True)
    states = whole.net.state_dict()
    assert all(value.equal(states[key]) for key, value in resumed.net.state_dict().items())


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_run_that_is_resumed_within_an_epoch_freezes_too(make_trainer, tmp_path):
    def trainer(*callbacks):
        callbacks = [Unfreeze(head_epochs=1), save_every(2, tmp_path), *callbacks]
        return make_trainer(*callbacks, max_epochs=1, enable_checkpointing=True)

    trainer().fit(make_task(), Halves())
    task, seen = make_task(seed=5), Snapshots()
    trainer(seen).fit(task, Halves(), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert changed_layers(task.net, seen.states[0], task.net.state_dict()) == [3]
