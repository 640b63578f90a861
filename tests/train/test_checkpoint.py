import pytest
import torch
from hostile_files import PAYLOADS, Payload
from small_disks import run_on_disk
from train_problem import make_task

from dmn.train import CheckpointFiles, EpochCheckpoint, Trainer
from dmn.weights import CheckpointError

PLAIN = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}


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

    assert type(Trainer(max_epochs=1, **PLAIN).strategy.checkpoint_io) is CheckpointFiles
    own = Trainer(max_epochs=1, plugins=[Own()], **PLAIN)
    assert type(own.strategy.checkpoint_io) is Own


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


@pytest.mark.torture(
    "resume from a file with code in it ({name})", "refused by name; the code does not run"
)
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_code_runs_where_a_training_is_resumed(name, make_trainer, data, tmp_path, happened):
    path, mark = tmp_path / name, tmp_path / "executed"
    PAYLOADS[name](Payload(mark), path)
    trainer = Trainer(max_epochs=1, **PLAIN)
    with pytest.raises(CheckpointError, match=name) as refused:
        trainer.fit(make_task(), data, ckpt_path=str(path))
    happened(str(refused.value).replace(str(tmp_path), ""))
    assert not mark.exists()


@pytest.mark.torture("resume from {what}", "refused by name, and what would work")
@pytest.mark.parametrize("what", ["a state dict", "half a checkpoint"])
def test_what_is_no_checkpoint_is_refused(what, data, make_trainer, tmp_path, happened):
    path = tmp_path / "last.ckpt"
    keep = checkpoint(tmp_path, save_on_train_epoch_end=True)
    make_trainer(keep, enable_checkpointing=True).fit(make_task(), data)
    whole = path.read_bytes()
    if what == "half a checkpoint":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        torch.save(make_task().state_dict(), path)
    trainer = Trainer(max_epochs=1, **PLAIN)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: ") as refused:
        trainer.fit(make_task(), data, ckpt_path=str(path))
    happened(str(refused.value).replace(str(tmp_path), ""))
