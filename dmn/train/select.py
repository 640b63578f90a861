"""Keep the checkpoint with the best explanations among those with nearly the best accuracy."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from dmn.errors import UnknownNameError
from dmn.train.checkpoint import OwnCheckpoint


class BestExplanation(OwnCheckpoint):
    """Keep `best_explained.ckpt`: the best explanations at nearly the best accuracy.

    Of all epochs whose accuracy is at most `within` below the best so far, the one with the best
    score is kept. If a later epoch is more accurate by more than that, it replaces the kept one,
    whatever its score. A score that is missing or NaN is no improvement.

    Args:
        metric: Logged score of the explanation, e.g. `quantus/PixelFlipping/splitcam`.
        mode: Whether larger ("max") or smaller ("min") is better.
        within: Accuracy that may be lost, as a share of all images, e.g. 0.005 for half a percent.
        accuracy: Logged accuracy.

    Raises:
        UnknownNameError: in the first epoch, if the score is not logged; lists those that are.

    Examples:
        >>> from dmn.train import BestExplanation, QuantusLogger, Trainer
        >>> scores = QuantusLogger(["PixelFlipping"])  # logs the score of each explainer
        >>> best = BestExplanation("quantus/PixelFlipping/splitcam", within=0.01)
        >>> trainer = Trainer(callbacks=[scores, best], logger=False, accelerator="cpu")
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
            save_on_train_epoch_end=False,  # so before last.ckpt, which contains this state too
        )
        self.metric, self.within, self.accuracy = metric, within, accuracy
        self.best_accuracy = self.kept_accuracy = -math.inf

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Return whether this epoch replaces the kept one."""
        accuracy = float(trainer.callback_metrics[self.accuracy])
        self.best_accuracy = max(self.best_accuracy, accuracy)
        floor = self.best_accuracy - self.within
        is_kept_too_inaccurate = self.kept_accuracy < floor
        if accuracy < floor or not (
            is_kept_too_inaccurate or super().check_monitor_top_k(trainer, current)
        ):
            return False
        self.kept_accuracy = accuracy
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming."""
        state = {"best_accuracy": self.best_accuracy, "kept_accuracy": self.kept_accuracy}
        return super().state_dict() | state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state_dict)
        self.best_accuracy = state_dict["best_accuracy"]
        self.kept_accuracy = state_dict["kept_accuracy"]

    def _monitor_candidates(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        prefix = self.metric.partition("/")[0] + "/"
        logged = [name for name in candidates if name.startswith(prefix)]
        if logged and self.metric not in logged:
            raise UnknownNameError(f"no score {self.metric}; there are {', '.join(logged)}")
        return {self.metric: torch.tensor(math.nan), **candidates}
