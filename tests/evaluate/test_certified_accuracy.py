"""The share of certain images: against a literal count, and over batches and processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_pairs import tiny_pair

from dmn.certify import bounds
from dmn.errors import OptionError
from dmn.evaluate.certified import CertifiedAccuracy

SCRIPT = """
import json, sys
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
sys.path[:0] = {folders!r}
from small_pairs import tiny_pair
from test_certified_accuracy import images
from dmn.evaluate.certified import CertifiedAccuracy

class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.metric = tiny_pair("inverted"), CertifiedAccuracy(0.01)

    def test_step(self, batch, _):
        self.metric.update(self.net, *batch)

    def on_test_epoch_end(self):
        share = float(self.metric.compute())
        if self.trainer.is_global_zero:
            print(json.dumps([self.trainer.world_size, share]))

options = dict(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False)
trainer = pl.Trainer(enable_checkpointing=False, enable_progress_bar=False, **options)
trainer.test(Task(), DataLoader(TensorDataset(*images()), 7), verbose=False)
"""


def images():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(40, 1, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = tiny_pair("inverted")(x).argmax(1)
    y[::4] = (y[::4] + 1) % 3  # wrong
    return x, y


def test_batches_add_up_to_a_literal_count():
    net, (x, y) = tiny_pair("inverted"), images()
    for eps in (0.0, 0.003, 0.01):
        metric = CertifiedAccuracy(eps)
        for rows in (slice(7), slice(7, 40)):
            metric.update(net, x[rows], y[rows])
        lower, upper, _ = bounds(net, (x - eps).clamp(0), (x + eps).clamp(max=1))
        separate = (
            torch.tensor(
                [lower[i, y[i]] > upper[i][torch.arange(3) != y[i]].max() for i in range(40)]
            )
            .float()
            .mean()
        )
        clean = (net(x).argmax(1) == y).float().mean()
        assert separate <= metric.compute() <= clean
        if not eps:
            assert metric.compute() == clean == 0.75


def test_two_processes_count_every_image_once():
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", SCRIPT.format(folders=folders)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    metric = CertifiedAccuracy(0.01)
    metric.update(tiny_pair("inverted"), *images())
    assert 0 < metric.compute() < 0.75
    assert json.loads(told.strip().splitlines()[-1]) == [2, pytest.approx(float(metric.compute()))]


def test_a_negative_eps_is_refused():
    with pytest.raises(OptionError, match="eps is -1"):
        CertifiedAccuracy(-1)
