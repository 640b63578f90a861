"""A training that is watched for days needs as much memory at its end as at its start."""

import gc
import os
from collections import Counter
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from dmn.tracking import EpochCSVLogger
from dmn.train import HeatmapLogger, QuantusLogger

COUNTED = {"tensors": torch.Tensor, "modules": nn.Module, "pictures": Image.Image}
STATM = Path("/proc/self/statm")  # of Linux; its second number is the memory held, in pages
SETTLED = 3  # counts from the first; until then allocators and caches fill
GROWTH = 8 * 2**20  # bytes: less than 1 % of what the process holds


def live():
    """Count what is alive, by kind; figures and the models that Quantus wraps by their names."""
    gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    counts = {
        name: sum(count for kind, count in kinds.items() if issubclass(kind, base))
        for name, base in COUNTED.items()
    }
    named = ("Figure", "PyTorchModel")
    return counts | {name: sum(n for k, n in kinds.items() if k.__name__ == name) for name in named}


class Alive(pl.Callback):
    """Count after every so many-th epoch."""

    def __init__(self, every):
        self.every, self.counts, self.bytes = every, [], []

    def on_train_epoch_end(self, trainer, pl_module):
        if (trainer.current_epoch + 1) % self.every:
            return
        self.counts.append(live())
        if STATM.exists():
            pages = int(STATM.read_text().split()[1])
            self.bytes.append(pages * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.torture(
    "a network explains itself after each of 200 epochs, scored by Quantus and drawn",
    "as many tensors, modules, pictures, figures and wrapped models alive throughout, and no more "
    "memory held after the last epoch than after 40",
)
def test_scoring_leaves_nothing_behind(task, data, make_trainer, tmp_path, full, happened):
    alive, epochs = (Alive(10), 200) if full else (Alive(1), 5)
    watchers = [QuantusLogger(images=2, with_controls=not full), HeatmapLogger(1)]
    logger = EpochCSVLogger(tmp_path, "run")
    make_trainer(*watchers, alive, logger=logger, max_epochs=epochs).fit(task, data)
    assert all(watcher.seconds > 0 for watcher in watchers)
    assert len(alive.counts) == epochs // alive.every
    counts = alive.counts[SETTLED - 1 :]
    assert counts[0]["tensors"] > 0
    assert all(each == counts[0] for each in counts)
    if full and alive.bytes:
        grown = alive.bytes[-1] - alive.bytes[SETTLED]
        happened(f"{counts[-1]} alive throughout; {grown / 2**20:.1f} MiB more memory held")
        assert grown < GROWTH
