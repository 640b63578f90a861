"""Freeze the lower layers of a network that starts from trained weights, and unfreeze them."""

from __future__ import annotations

import logging
from typing import cast

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer

from dmn.train.groups import layer_names

log = logging.getLogger(__name__)


class Unfreeze(pl.Callback):
    """Train the head first, then unfreeze the layers below it, from the last to the first.

    Layers of g and h of a pair are unfrozen together. A frozen layer does not change, and neither
    do the statistics of its batch norm. All parameters are in the optimizer from the start, and
    which layers are frozen depends only on the epoch, so schedules, resuming and several processes
    work as usual. The gradients of frozen layers are computed and dropped, so these layers still
    cost time.

    Args:
        head_epochs: Number of epochs in which only the head is trained.
        layers_per_epoch: Layers unfrozen at the start of each epoch after those; 0 unfreezes all at
            once.

    Examples:
        >>> from dmn.train import Trainer, Unfreeze
        >>> unfreeze = Unfreeze(head_epochs=2, layers_per_epoch=1)
        >>> [unfreeze.frozen_layers(epoch, layers=5) for epoch in range(6)]
        [4, 4, 3, 2, 1, 0]
        >>> trainer = Trainer(callbacks=[unfreeze], logger=False, accelerator="cpu")
    """

    def __init__(self, head_epochs: int = 0, layers_per_epoch: int = 0) -> None:
        self.head_epochs, self.layers_per_epoch = head_epochs, layers_per_epoch
        self._frozen: list[nn.Module] = []

    def frozen_layers(self, epoch: int, layers: int) -> int:
        """Return how many layers, counted from the first, are frozen in an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            layers: Number of layers of the network, including the head.
        """
        thawing_epochs = epoch - self.head_epochs + 1
        if thawing_epochs > 0 and self.layers_per_epoch == 0:
            return 0
        return max(0, layers - 1 - max(0, thawing_epochs) * self.layers_per_epoch)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze, as a run that is resumed within an epoch does not start that epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the layers that this epoch does not train, and thaw the others."""
        net = cast(nn.Module, pl_module.net)
        layers = layer_names(net)
        count = self.frozen_layers(trainer.current_epoch, len(layers))
        before = self._frozen
        self._freeze([net.get_submodule(name) for names in layers[:count] for name in names])
        if trainer.is_global_zero and len(self._frozen) != len(before):
            log.info("epoch %d: %d layers frozen", trainer.current_epoch + 1, count)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Drop the gradients of frozen layers, before gradients are clipped."""
        for module in self._frozen:
            for parameter in module.parameters(recurse=False):
                parameter.grad = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the network's mode."""
        self._freeze([])

    def _freeze(self, modules: list[nn.Module]) -> None:
        for module in self._frozen:
            module.training = True
        self._frozen = modules
        for module in modules:
            module.training = False
