"""Training: the task, its callbacks, and where runs are written."""

from dmn.train.checkpoint import CheckpointFiles, EpochCheckpoint
from dmn.train.constraint import ParameterSummary, ProjectNonnegative, parameter_table
from dmn.train.finite import NonFiniteError, StopAtNonFinite
from dmn.train.freeze import Unfreeze
from dmn.train.groups import layer_names, layerwise
from dmn.train.initialise import Fit, adopt, initialise
from dmn.train.penalty import ExplanationPenalty, MissingMasksError
from dmn.train.progress import EpochLines, RunSummary, progress_bar
from dmn.train.rank import RankLogger
from dmn.train.resume import check_same_run
from dmn.train.select import BestExplanation, UnknownScoreError
from dmn.train.task import ClassificationTask, OneCycle
from dmn.train.terms import Distillation, Term
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
    "BestExplanation",
    "CheckpointFiles",
    "ClassificationTask",
    "Distillation",
    "EpochCSVLogger",
    "EpochCheckpoint",
    "EpochLines",
    "EpochWandbLogger",
    "ExplanationPenalty",
    "Fit",
    "HeatmapLogger",
    "MissingMasksError",
    "NonFiniteError",
    "OneCycle",
    "ParameterSummary",
    "ProjectNonnegative",
    "QuantusLogger",
    "RankLogger",
    "Run",
    "RunSummary",
    "StopAtNonFinite",
    "Term",
    "Trainer",
    "Unfreeze",
    "UnknownScoreError",
    "Watcher",
    "adopt",
    "check_same_run",
    "initialise",
    "layer_names",
    "layerwise",
    "log_config",
    "parameter_table",
    "progress_bar",
    "tracking",
    "wandb_folders",
    "wandb_logger",
]
