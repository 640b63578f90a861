"""Keep the constraint during training, and log that it holds."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from torch import nn

from dmn.nn import constrained, constraint_statistics, project


class ProjectNonnegative(pl.Callback):
    """Set negative weights of monotone parts to their floor after each optimizer step.

    Logs `constraint/min_weight` and `constraint/zero_fraction` in each epoch. Networks without
    constrained parts are not changed.

    Examples:
        >>> from dmn.train import ProjectNonnegative, Trainer
        >>> trainer = Trainer(callbacks=[ProjectNonnegative()], logger=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start inside the constraint."""
        project(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Project."""
        project(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the constraint."""
        for name, value in constraint_statistics(pl_module).items():
            pl_module.log(f"constraint/{name}", value, sync_dist=True)


class ParameterSummary(pl.Callback):
    """Print the parameters of the network before training, and which of them are constrained.

    Examples:
        >>> from dmn.train import ParameterSummary, Trainer
        >>> trainer = Trainer(callbacks=[ParameterSummary()], logger=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        self._print(pl_module)

    @rank_zero_only
    def _print(self, model: nn.Module) -> None:
        Console(soft_wrap=True).print(parameter_table(model))


def parameter_table(model: nn.Module) -> Table:
    """Return a table of the parameters of a model: name, shape, count, constraint.

    Args:
        model: Any module; `dmn.nn.constrained` finds the constrained parameters.
    """
    floors = {item.name: item for item in constrained(model)}
    table = Table("parameter", "shape", "numbers", "constraint", box=None, pad_edge=False)
    total = 0
    for name, parameter in model.named_parameters():
        path = name.replace("parametrizations.", "").removesuffix(".original")
        rule = "free"
        if item := floors.get(path):
            kept_by = "reparametrised" if item.reparametrised else "projected"
            rule = f">= {item.floor:g}, {kept_by}"
        shape = " x ".join(map(str, parameter.shape))
        table.add_row(path, shape, f"{parameter.numel():,}", rule)
        total += parameter.numel()
    table.add_section()
    table.add_row("all", "", f"{total:,}", "")
    return table
