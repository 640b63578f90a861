"""Where a run is written: a CSV file, and Weights & Biases without or with an account.

`tracking` opens both loggers in a folder of their own, as `dmn fit` does. Each writes one row per
epoch. A full disk or a lost connection does not stop a training.
"""

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
