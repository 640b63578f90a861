"""Whoever watches a training leaves it as it was: weights, statistics, optimizer, draws, order."""

import random
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader
from train_problem import Halves, make_task

from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.train import BestExplanation, HeatmapLogger, QuantusLogger, RankLogger


class Shuffled(Halves):
    def train_dataloader(self):
        return DataLoader(self.parts, 16, shuffle=True)


class Trace(pl.Callback):
    """Keep which images came when, and the global random states after each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_index):
        self.seen.append(batch[0].clone())

    def on_train_epoch_end(self, trainer, pl_module):
        numpy = torch.from_numpy(np.random.get_state()[1].astype(np.int64))
        self.seen += [torch.get_rng_state(), numpy, torch.tensor(random.getstate()[1])]


class Drawing(SplitCAM):
    """Draw from every global generator, and fail each other time."""

    calls = 0

    def __call__(self, x, target=None):
        self.calls += 1
        noise = torch.rand_like(x) + np.random.rand() + random.random()
        if self.calls % 2:
            raise RuntimeError("no luck")
        return super().__call__(x + noise, target)


class Unsteady(SplitCAM):
    """Fail within a pass through the network, which has hooks and is in eval mode then."""

    def __call__(self, x, target=None):
        return super().__call__(x.repeat(1, 2, 1, 1), target)


EXPLAINERS = {
    "splitcam": partial(SplitCAM, layer="stage1_1"),
    "splitgrad": partial(SplitGrad, layer="stem"),
    "splitlrp": partial(SplitLRP, stream="g", part="p"),
    "drawing": partial(Drawing, layer="stem"),
    "unsteady": partial(Unsteady, layer="stem"),
}
OPTIONS = {
    "each epoch": {},
    "amid gradients that are accumulated": {"val_check_interval": 2, "accumulate_grad_batches": 3},
    "with deterministic algorithms": {"deterministic": True},
}


@pytest.fixture
def deterministic():
    """Whether `torch.use_deterministic_algorithms` holds is put back afterwards."""
    yield
    torch.use_deterministic_algorithms(False)


def trained(make_trainer, watchers, epochs, **options):
    """Return all numbers that a training leaves."""
    pl.seed_everything(1, verbose=False)
    task = make_task(explainers=EXPLAINERS)
    for side in (task.net.g, task.net.h):
        side.net.head = nn.Sequential(nn.Dropout(0.5), side.net.head)
    trace, last = Trace(), ModelCheckpoint(save_last=True, enable_version_counter=False)
    callbacks = [trace, *watchers, last]
    options |= {"enable_checkpointing": True, "max_epochs": epochs}
    trainer = make_trainer(*callbacks, **options)
    trainer.fit(task, Shuffled())
    state = torch.load(last.last_model_path, weights_only=True)
    return [*task.state_dict().values(), *tensors(state["optimizer_states"]), *trace.seen]


def tensors(tree):
    """Return every number in nested lists and dicts."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for each in tree for leaf in tensors(each)]
    return [torch.as_tensor(tree if isinstance(tree, (torch.Tensor, float, int)) else 0)]


@pytest.mark.torture(
    "a network with dropout is trained on shuffled images, watched by all callbacks {how}; one "
    "explainer draws from all global generators, and two fail",
    "weights, statistics, optimizer, draws and order of images bit-equal to a run unwatched",
)
@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.usefixtures("deterministic")
def test_watching_leaves_a_training_as_it_was(how, make_trainer, full, caplog):
    epochs, metrics = (6, None) if full else (2, ["Sparseness", "RandomLogit"])
    watchers = [
        QuantusLogger(metrics, images=4),
        HeatmapLogger(2),
        RankLogger(images=4, every_n_epochs=1),
        BestExplanation("quantus/Sparseness/splitcam"),
    ]
    plain, watched = (
        trained(make_trainer, each, epochs, **OPTIONS[how]) for each in ([], watchers)
    )
    assert all(watcher.seconds > 0 for watcher in watchers[:3])
    assert "quantus: drawing: RuntimeError: no luck (first by" in caplog.text
    assert "quantus: unsteady: DataError: images (1, 2, 8, 8) do not fit" in caplog.text
    assert len(plain) == len(watched)
    assert all(torch.equal(*pair) for pair in zip(plain, watched, strict=True))
