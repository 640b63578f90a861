import pytest
import torch
from small_disks import run_on_disk
from train_problem import make_task

from dmn.train import CheckpointFiles, EpochCheckpoint, Trainer


def checkpoint(folder, **options):
    options = {"monitor": "val/acc", "mode": "max", "filename": "best", "save_last": True} | options
    return EpochCheckpoint(folder, enable_version_counter=False, **options)


def epoch(path):
    return torch.load(path, weights_only=True)["epoch"]


@pytest.mark.torture(
    "train on after the best epoch", "last.ckpt is of the last epoch, not of the best"
)
def test_the_last_checkpoint_is_of_the_last_epoch(data, make_trainer, tmp_path, happened):
    # the accuracy is 1 from the start, and Lightning's own writes last.ckpt with best.ckpt only
    keep = checkpoint(tmp_path, save_on_train_epoch_end=True)
    make_trainer(keep, enable_checkpointing=True, max_epochs=4).fit(make_task(), data)
    epochs = {name: epoch(tmp_path / f"{name}.ckpt") for name in ("best", "last")}
    happened(f"epochs {epochs}")
    assert epochs["best"] < 3
    assert epochs["last"] == 3
    assert sorted(it.name for it in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_no_last_checkpoint_where_none_is_asked_for(data, make_trainer, tmp_path):
    keep = checkpoint(tmp_path, save_last=False)
    make_trainer(keep, enable_checkpointing=True).fit(make_task(), data)
    assert [it.name for it in tmp_path.iterdir()] == ["best.ckpt"]


def test_the_trainer_writes_whole_files_unless_a_plugin_says_otherwise():
    class Own(CheckpointFiles):
        pass

    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    assert type(Trainer(**options).strategy.checkpoint_io) is CheckpointFiles
    assert type(Trainer(plugins=[Own()], **options).strategy.checkpoint_io) is Own


@pytest.mark.torture(
    "a checkpoint for which a disk has no room", "an error, the last good one as it was"
)
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, happened):
    out = run_on_disk(
        tmp_path,
        """
import torch
from dmn.train import CheckpointFiles
from dmn.writing import WriteError
files = CheckpointFiles()
files.save_checkpoint({"state_dict": torch.ones(1000)}, disk / "last.ckpt")
fill(8192)
try:
    files.save_checkpoint({"state_dict": torch.zeros(50_000)}, disk / "last.ckpt")
except WriteError as error:
    print(error)
assert torch.load(disk / "last.ckpt", weights_only=True)["state_dict"].sum() == 1000
""",
        1,
    )
    happened(out.replace(str(tmp_path), ""))
    assert "last.ckpt: cannot be written, No space left on device" in out
