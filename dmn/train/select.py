"""Keep the checkpoint that explains best among those that classify about as well as the best."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from dmn.errors import UnknownNameError
from dmn.train.checkpoint import OwnCheckpoint


class BestExplanation(OwnCheckpoint):
    """Keep `best_explained.ckpt`: the best explanation that costs next to no accuracy.

    Of all epochs within `within` of the best accuracy so far, the one whose score is best is kept;
    when a later epoch leaves it too far behind, that epoch takes its place, whatever its score. A
    score that is missing, or not a number, is no improvement.

    Args:
        metric: What is logged of the explanation, e.g. `quantus/PixelFlipping/splitcam`.
        mode: Whether it is to be large ("max") or small ("min").
        within: Accuracy that may be lost, as a share of all images, e.g. 0.005 for half a percent.
        accuracy: What is logged of the accuracy.

    Raises:
        UnknownNameError: in the first epoch; names the scores that are logged.
    """

    def __init__(
        self,
        metric: str,
        mode: Literal["min", "max"] = "max",
        within: float = 0.005,
        accuracy: str = "val/acc",
    ) -> None:
        super().__init__(
            filename="best_explained",
            monitor=metric,
            mode=mode,
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # hence before last.ckpt, which holds this state too
        )
        self.metric, self.within, self.accuracy = metric, within, accuracy
        self.best_accuracy = self.kept_accuracy = -math.inf

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Return whether this epoch is to be kept in place of the one that is."""
        accuracy = float(trainer.callback_metrics[self.accuracy])
        self.best_accuracy = max(self.best_accuracy, accuracy)
        floor = self.best_accuracy - self.within
        lapsed = self.kept_accuracy < floor
        if accuracy < floor or not (lapsed or super().check_monitor_top_k(trainer, current)):
            return False
        self.kept_accuracy = accuracy
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that is resumed goes on from."""
        own = {"best_accuracy": self.best_accuracy, "kept_accuracy": self.kept_accuracy}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state_dict)
        self.best_accuracy = state_dict["best_accuracy"]
        self.kept_accuracy = state_dict["kept_accuracy"]

    def _monitor_candidates(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        kind = self.metric.partition("/")[0] + "/"
        logged = [name for name in candidates if name.startswith(kind)]
        if logged and self.metric not in logged:
            raise UnknownNameError(f"no score {self.metric}; there are {', '.join(logged)}")
        return {self.metric: torch.tensor(math.nan), **candidates}
