"""Checkpoints that survive a crash: one after every epoch, written whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dmn.errors import CheckpointError
from dmn.io.weights import read_file
from dmn.io.writing import write_whole

STATE_TYPES: dict[str, type] = {  # of a checkpoint's entries, which resuming needs
    **dict.fromkeys(("state_dict", "loops", "callbacks"), dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("epoch", "global_step"), int),
}
PATH_KEYS = ("best_model_path", "kth_best_model_path", "last_model_path")  # in a callback's state


class OwnCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, restricted to files in its own folder.

    Lightning's would later remove any file, folder or URL that a state names.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, unless it names anything outside the callback's folder."""
        paths = [*map(state_dict.get, PATH_KEYS), *(state_dict.get("best_k_models") or ())]
        if all(_is_inside(str(path), str(self.dirpath)) for path in paths if path):
            super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class EpochCheckpoint(OwnCheckpoint):
    """A checkpoint callback whose `last.ckpt` is written after every epoch.

    Lightning's callback writes it only together with a new best one, so an interrupted run may
    resume from a much earlier epoch. The arguments are those of Lightning's `ModelCheckpoint`.

    Examples:
        >>> from dmn.train import EpochCheckpoint, Trainer
        >>> checkpoint = EpochCheckpoint(monitor="val/acc", mode="max", save_last=True)
        >>> trainer = Trainer(callbacks=[checkpoint], logger=False, accelerator="cpu")
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best checkpoint if this epoch is the best, and always the last one."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class CheckpointFiles(TorchCheckpointIO):
    """Local checkpoints that are written whole or not at all, and read without executing code.

    Lightning's plugin writes to the system's temporary folder first and copies from there. If the
    disk is full or the process is killed meanwhile, half a file replaces the last good one. It also
    removes folders with all their content, wherever they are. `dmn.train.Trainer` uses this plugin
    by default.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from dmn.train import CheckpointFiles
        >>> trainer = pl.Trainer(plugins=[CheckpointFiles()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        super().__init__()
        self._folders: set[str] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint; URLs such as s3://... are left to Lightning.

        Args:
            checkpoint: The state of a training.
            path: The file.
            storage_options: For URLs only.

        Raises:
            WriteError: if it cannot be written; names the file, whose old content is kept.
        """
        self._folders.add(_folder(path))
        if _is_url(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(path, content.getvalue())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint to resume from; URLs such as s3://... are left to Lightning.

        Raises:
            CheckpointError: if it is not a checkpoint of a training, or would execute code.
        """
        if _is_url(path):
            return super().load_checkpoint(path, *args, **options)
        state, _ = read_file(Path(path))
        if not (isinstance(state, dict) and "pytorch-lightning_version" in state):
            raise CheckpointError(
                f"{path}: holds no state of a training to go on from; "
                "start from its weights by `dmn finetune --init_from`"
            )
        for key, expected in STATE_TYPES.items():
            if not isinstance(state.get(key, expected()), expected):
                raise CheckpointError(
                    f"{path}: its {key} is of type {type(state[key]).__name__}, not "
                    f"{expected.__name__}"
                )
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file from a folder to which a checkpoint was saved; keep all other files."""
        if _folder(path) not in self._folders:
            return
        if _is_url(path):
            super().remove_checkpoint(path)
        elif os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)  # the link, not its target


def model_checkpoints(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    """Return the checkpoint callbacks of a trainer that say which files they have written."""
    callbacks: list[Any] = trainer.checkpoint_callbacks
    return [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]


def _is_url(path: Any) -> bool:
    return "://" in str(path) or "::" in str(path)  # as in fsspec


def _folder(path: Any) -> str:
    """Return the folder of a file with all links resolved, or that of a URL as it is."""
    folder = os.path.dirname(str(path))
    return folder if _is_url(path) else os.path.realpath(folder)


def _is_inside(path: str, folder: str) -> bool:
    if _is_url(path):
        return path.startswith(f"{folder}/") and ".." not in path.split("/")
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
