"""A callback that logs the effective rank of activations, which may fall with depth."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from dmn.data import ImageBatch
from dmn.nn import MONOTONE_ACTIVATIONS, effective_rank
from dmn.train.probe_callbacks import ProbeCallback

ACTIVATION_TYPES: tuple[type[nn.Module], ...] = tuple(MONOTONE_ACTIVATIONS)


class RankLogger(ProbeCallback):
    """Log in each epoch the effective rank of the output of every activation, as `rank/<layer>`.

    A deep monotone network does not train if its rank falls to nearly 1 with depth.

    Args:
        images: Validation images per process on which the rank is measured.
        every_n_epochs: Measure only every n-th epoch and the last one; 0 for never.

    Examples:
        >>> from dmn.train import RankLogger, Trainer
        >>> ranks = RankLogger(images=16, every_n_epochs=1)
        >>> trainer = Trainer(callbacks=[ranks], logger=False, accelerator="cpu")
    """

    log_name = "rank"
    needs_explainers = False

    def __init__(self, images: int = 32, every_n_epochs: int = 0) -> None:
        super().__init__(images, every_n_epochs)

    def on_probe(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        explainers: Any,
        batch: ImageBatch,
    ) -> None:
        """Measure and log."""
        ranks: dict[str, float] = {}
        with ExitStack() as hooks:
            for name, module in pl_module.named_modules():
                if isinstance(module, ACTIVATION_TYPES):
                    hooks.enter_context(
                        module.register_forward_hook(partial(_store_rank, ranks, name))
                    )
            pl_module(batch.image)
        for name, rank in ranks.items():
            layer = name.removeprefix("net.").replace(".net.", ".").removesuffix(".activation")
            pl_module.log(f"rank/{layer}", rank, sync_dist=True)


def _store_rank(
    ranks: dict[str, float], name: str, module: nn.Module, args: Any, out: Tensor
) -> None:
    ranks[name] = effective_rank(out)
