"""Training: the task, its callbacks, and where runs are written."""

from dmn.train.constraint import ParameterSummary, ProjectNonnegative, parameter_table
from dmn.train.initialise import CheckpointError, Fit, initialise, read_weights
from dmn.train.progress import EpochLines, RunSummary, progress_bar
from dmn.train.task import ClassificationTask, OneCycle
from dmn.train.tracking import (
    EpochCSVLogger,
    EpochWandbLogger,
    Run,
    log_config,
    tracking,
    wandb_folders,
    wandb_logger,
)
from dmn.train.trainer import Trainer
from dmn.train.watch import HeatmapLogger, QuantusLogger, Watcher

__all__ = [
    "CheckpointError",
    "ClassificationTask",
    "EpochCSVLogger",
    "EpochLines",
    "EpochWandbLogger",
    "Fit",
    "HeatmapLogger",
    "OneCycle",
    "ParameterSummary",
    "ProjectNonnegative",
    "QuantusLogger",
    "Run",
    "RunSummary",
    "Trainer",
    "Watcher",
    "initialise",
    "log_config",
    "parameter_table",
    "progress_bar",
    "read_weights",
    "tracking",
    "wandb_folders",
    "wandb_logger",
]
