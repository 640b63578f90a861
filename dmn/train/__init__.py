"""Training with PyTorch Lightning: the task, terms of its loss, callbacks, and fine-tuning.

`ClassificationTask` trains a network, `Trainer` runs it, and `ProjectNonnegative` keeps a monotone
network monotone. Other callbacks draw heatmaps, score explanations and write checkpoints.
`initialise`, `Unfreeze` and `Distillation` start from networks that are trained already. With your
own loop you need none of this: see `dmn.nn.project`.
"""

from dmn.train.certified import LogCertifiedAccuracy
from dmn.train.checkpoint import CheckpointFiles, EpochCheckpoint
from dmn.train.constraint import ParameterSummary, ProjectNonnegative, parameter_table
from dmn.train.finite import StopAtNonFinite
from dmn.train.freeze import Unfreeze
from dmn.train.groups import layer_names, layerwise
from dmn.train.initialise import LoadReport, initialise, load_shipped_weights
from dmn.train.mosaics import MosaicPenalty
from dmn.train.penalty import ExplanationPenalty
from dmn.train.probe_callbacks import HeatmapLogger, ProbeCallback, QuantusLogger
from dmn.train.progress import EpochLines, RunSummary, progress_bar
from dmn.train.rank_logger import RankLogger
from dmn.train.resume import check_same_run
from dmn.train.schedule import OneCycle
from dmn.train.select import BestExplanation
from dmn.train.sensitivity import SensitivityPenalty
from dmn.train.task import ClassificationTask
from dmn.train.terms import Distillation, Term
from dmn.train.trainer import Trainer
from dmn.train.worst_case import FreezeBatchNorm, WorstCaseLoss

__all__ = [
    "BestExplanation",
    "CheckpointFiles",
    "ClassificationTask",
    "Distillation",
    "EpochCheckpoint",
    "EpochLines",
    "ExplanationPenalty",
    "FreezeBatchNorm",
    "HeatmapLogger",
    "LoadReport",
    "LogCertifiedAccuracy",
    "MosaicPenalty",
    "OneCycle",
    "ParameterSummary",
    "ProbeCallback",
    "ProjectNonnegative",
    "QuantusLogger",
    "RankLogger",
    "RunSummary",
    "SensitivityPenalty",
    "StopAtNonFinite",
    "Term",
    "Trainer",
    "Unfreeze",
    "WorstCaseLoss",
    "check_same_run",
    "initialise",
    "layer_names",
    "layerwise",
    "load_shipped_weights",
    "parameter_table",
    "progress_bar",
]
