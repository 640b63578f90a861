"""Where runs are written: CSV files and Weights & Biases."""

from dmn.tracking.failures import Failures, log_and_continue
from dmn.tracking.loggers import (
    EpochCSVLogger,
    EpochWandbLogger,
    Run,
    log_config,
    tracking,
    wandb_folders,
    wandb_logger,
)

__all__ = [
    "EpochCSVLogger",
    "EpochWandbLogger",
    "Failures",
    "Run",
    "log_and_continue",
    "log_config",
    "tracking",
    "wandb_folders",
    "wandb_logger",
]
