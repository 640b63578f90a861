"""Checkpoints that a crash cannot take away: one after every epoch, each whole or not at all."""

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

KINDS: dict[str, type] = {  # of what a checkpoint holds to go on with
    **dict.fromkeys(("state_dict", "loops", "callbacks"), dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("epoch", "global_step"), int),
}
FILES = ("best_model_path", "kth_best_model_path", "last_model_path")  # in a callback's state


class OwnCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which goes on with the files in its own folder only.

    Lightning's own would later remove whatever files, folders and addresses a state names.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, unless it names anything outside the callback's own folder."""
        named = [*map(state_dict.get, FILES), *(state_dict.get("best_k_models") or ())]
        if all(_is_below(str(path), str(self.dirpath)) for path in named if path):
            super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class EpochCheckpoint(OwnCheckpoint):
    """A checkpoint callback whose `last.ckpt` is written after every epoch.

    Lightning's own writes it only with a new best one, so that a run which is cut goes on from an
    epoch that may be long past.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best checkpoint if this epoch is it, and the last one in any case."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class CheckpointFiles(TorchCheckpointIO):
    """Local checkpoints, written whole or not at all, and read without executing code.

    Lightning's own writes to the system's temporary folder first, and copies from there: a full
    disk, or whoever kills it meanwhile, leaves half a file in place of the last good one. Its own
    also removes folders with all that is in them, wherever they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folders: set[str] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint; addresses such as s3://... are left to Lightning.

        Raises:
            WriteError: names the file; what it held before is kept.
        """
        self._folders.add(_folder(path))
        if _is_address(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(path, content.getvalue())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint to go on from; addresses such as s3://... are left to Lightning.

        Raises:
            CheckpointError: names the file, if it is none of a training's, or asks for code.
        """
        if _is_address(path):
            return super().load_checkpoint(path, *args, **options)
        held, _ = read_file(Path(path))
        if not (isinstance(held, dict) and "pytorch-lightning_version" in held):
            raise CheckpointError(
                f"{path}: holds no state of a training to go on from; "
                "start from its weights by `dmn finetune --init_from`"
            )
        for key, kind in KINDS.items():
            if not isinstance(held.get(key, kind()), kind):
                raise CheckpointError(
                    f"{path}: its {key} is of type {type(held[key]).__name__}, not {kind.__name__}"
                )
        return held

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file from a folder that a checkpoint was saved to; leave anything else."""
        if _folder(path) not in self._folders:
            return
        if _is_address(path):
            super().remove_checkpoint(path)
        elif os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)  # of a link, not what it leads to


def _is_address(path: Any) -> bool:
    return "://" in str(path) or "::" in str(path)  # as fsspec reads it


def _folder(path: Any) -> str:
    """Return the folder of a file, with all links resolved; of an address, as it is written."""
    folder = os.path.dirname(str(path))
    return folder if _is_address(path) else os.path.realpath(folder)


def _is_below(path: str, folder: str) -> bool:
    if _is_address(path):
        return path.startswith(f"{folder}/") and ".." not in path.split("/")
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
