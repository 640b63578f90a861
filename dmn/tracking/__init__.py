"""Where runs are written: CSV files and Weights & Biases."""

from dmn.tracking.csv import EpochCSVLogger
from dmn.tracking.failures import Failures, log_and_continue
from dmn.tracking.open import tracking
from dmn.tracking.run import Run
from dmn.tracking.wandb import EpochWandbLogger, log_config, wandb_folders, wandb_logger

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
