from collections import Counter

import effort
import pytest
import torch
from hostile_files import PAYLOADS, Payload
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import ModelCheckpoint
from small_disks import run_on_disk
from train_problem import make_task

from dmn.errors import CheckpointError
from dmn.train import BestExplanation, CheckpointFiles, EpochCheckpoint, Trainer

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


@pytest.mark.torture(
    "a state names a file by a link in the run's own folder", "nothing of that state is taken"
)
@pytest.mark.parametrize("kind", [EpochCheckpoint, BestExplanation])
def test_a_link_in_the_own_folder_leads_nowhere(kind, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "own" / "link").symlink_to(tmp_path / "other")
    for inside, taken in (("last.ckpt", True), ("link/last.ckpt", False), ("../other/a", False)):
        keep = kind(str(tmp_path / "own")) if kind is EpochCheckpoint else kind("quantus/a")
        keep.dirpath = str(tmp_path / "own")
        state = keep.state_dict() | {"last_model_path": f"{tmp_path}/own/{inside}"}
        keep.load_state_dict(state)
        assert bool(keep.last_model_path) == taken


WRONG = {"loops": 3, "callbacks": [], "optimizer_states": {}, "state_dict": None, "epoch": "1"}


@pytest.mark.torture("a checkpoint's {key} is of another type", "refused by name")
@pytest.mark.parametrize("key", WRONG)
def test_what_is_no_state_of_a_training_is_refused(key, data, make_trainer, tmp_path):
    path = tmp_path / "last.ckpt"
    keep = checkpoint(tmp_path)
    make_trainer(keep, enable_checkpointing=True).fit(make_task(), data)
    held = torch.load(path, weights_only=True)
    torch.save(held | {key: WRONG[key]}, path)
    with pytest.raises(CheckpointError, match=f"last.ckpt: its {key} is of type"):
        CheckpointFiles().load_checkpoint(path)


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
from dmn.io.writing import WriteError
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


def tree(folder):
    """What is in a folder: names, kinds and modes, and what files hold."""
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
ELSEWHERE = (
    *("{own}/../precious", "{own}/../precious/a.txt", "{own}/..", "{own}/link", "{own}/link/a.txt"),
    *("{top}/precious", "local://{top}/precious", "file://{top}/precious/a.txt", "{own}/sub"),
    *(
        "local::{top}/precious",
        "{own}/best.ckpt/../../precious",
        "{own}/last.ckpt",
        "{own}",
        "",
        "/",
    ),
)


@pytest.fixture
def left_by_a_stranger(data, make_trainer, tmp_path):
    """A checkpoint, in a run's folder beside things that are no part of the run."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a.txt").write_text("keep")
    own = tmp_path / "run"
    keep = checkpoint(own, save_on_train_epoch_end=True)
    make_trainer(keep, enable_checkpointing=True, max_epochs=1).fit(OneRate(), data)
    (own / "link").symlink_to(tmp_path / "precious")
    (own / "sub").mkdir()
    (own / "sub" / "b.txt").write_text("keep")
    return own


def OneRate():  # noqa: N802
    """A task that may be trained for any number of steps."""
    task = make_task(explainers={})
    task._lr_scheduler = None
    return task


@pytest.mark.torture(
    "resume from a checkpoint that names other files and folders as its own, in any of its states",
    "nothing changes outside the run's folder",
)
@pytest.mark.parametrize("kind", [EpochCheckpoint, ModelCheckpoint, BestExplanation])
def test_resuming_changes_nothing_outside_the_runs_folder(
    kind, left_by_a_stranger, data, tmp_path, full, happened
):
    own, counts = left_by_a_stranger, Counter()
    genuine = torch.load(own / "last.ckpt", weights_only=True)
    (state,) = (s for key, s in genuine["callbacks"].items() if "EpochCheckpoint" in key)
    before = tree(tmp_path)
    places = st.sampled_from(ELSEWHERE) | st.text("./:a~*", max_size=6).map("{{own}}/{}".format)
    score = st.sampled_from([-torch.inf, torch.inf]).map(torch.tensor)

    count = 150 if full else effort.examples(6, 20)

    @settings(max_examples=count, deadline=None, derandomize=not full, database=None)
    @given(
        st.fixed_dictionaries(dict.fromkeys(PATHS, places)),
        score,
        st.sampled_from(["max", "min"]),
        st.sampled_from([1, 2, -1]),
    )
    def check(named, score, mode, top):
        told = {key: path.format(own=own, top=tmp_path) for key, path in named.items()}
        told["best_k_models"] = {told["kth_best_model_path"]: score}
        if kind is BestExplanation:
            keep = BestExplanation("val/loss", mode)
            keep.dirpath = str(own)
            told |= {"best_accuracy": 0.0, "kept_accuracy": 0.0}
        else:
            options = {"filename": "{epoch}", "save_last": True, "save_top_k": top, "mode": mode}
            keep = kind(own, monitor="val/loss", **options)
        genuine["callbacks"] = {keep.state_key: state | told}
        genuine["hyper_parameters"] = genuine["datamodule_hyper_parameters"] = told
        genuine["Halves"] = told
        torch.save(genuine, own / "last.ckpt")
        quiet = {**PLAIN, "enable_checkpointing": True, "enable_progress_bar": False}
        trainer = Trainer(
            max_epochs=3, callbacks=[keep], enable_model_summary=False, limit_val_batches=1, **quiet
        )
        try:
            trainer.fit(OneRate(), data, ckpt_path=str(own / "last.ckpt"))
            counts["trained"] += 1
        except (KeyError, TypeError, ValueError) as error:
            counts[type(error).__name__] += 1
        after = tree(tmp_path)
        beside = {path for path in after.keys() | before.keys() if not path.startswith(f"{own}/")}
        assert all(after[path] == before[path] for path in beside)
        assert (own / "sub" / "b.txt").read_text() == "keep"  # nor is a folder removed within

    check()
    happened(str(dict(counts)))
    assert counts["trained"]
