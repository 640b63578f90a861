"""A small problem that trains in a second: which half of the image is bright."""

from functools import partial

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from dmn.explain import SplitCAM, SplitLRP
from dmn.models import DifferenceOfMonotone, MonotoneConvNet
from dmn.train import ClassificationTask, OneCycle


class Halves(pl.LightningDataModule):
    def __init__(self, masks=True):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(48, 1, 8, 8, generator=generator) * 0.3
        y = torch.arange(48) % 2
        half = torch.zeros(48, 1, 8, 8)
        half[y == 0, :, :, :4] = 1
        half[y == 1, :, :, 4:] = 1
        parts = (x + 0.6 * half, y, half) if masks else (x + 0.6 * half, y)
        self.parts = TensorDataset(*parts)

    def train_dataloader(self):
        return DataLoader(self.parts, 16, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.parts, 16)

    test_dataloader = val_dataloader


def make_task(seed=0, explainers=None, classes=2, terms=None, **options):
    torch.manual_seed(seed)
    nets = [MonotoneConvNet(2, (4, 4), 1, grid=2, num_classes=classes, **options) for _ in range(2)]
    if explainers is None:
        explainers = {
            "splitcam": partial(SplitCAM, layer="stage1_1"),
            "splitlrp": partial(SplitLRP, stream="g", part="p"),
        }
    return ClassificationTask(
        DifferenceOfMonotone(*nets),
        partial(torch.optim.Adam, lr=0.05),
        OneCycle,
        explainers,
        num_classes=classes,
        terms=terms,
    )
