"""Where runs lie, and which folder a resumed one goes on in."""

from pathlib import Path

import pytest

from dmn.tracking import Run, tracking
from dmn.tracking.wandb import wandb_id


def test_runs_are_numbered_and_tests_lie_apart(tmp_path):
    folders = []
    for job in ("train", "finetune", "test"):
        with tracking(Run("exp", str(tmp_path)), job) as loggers:
            folders.append(Path(loggers[0].log_dir).relative_to(tmp_path).as_posix())
    assert folders == ["exp/version_0", "exp/version_1", "exp/test/version_0"]


def test_a_resumed_run_goes_on_under_its_name_only_online(tmp_path):
    folder = tmp_path / "exp" / "version_0"
    (folder / "wandb" / "run-20260101_000000-abc123").mkdir(parents=True)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    for online, expected in ((True, "abc123"), (False, None)):
        with tracking(Run("exp", str(tmp_path), online), resumed=checkpoint) as loggers:
            assert loggers[1].version == expected
            assert loggers[0].version == "version_0"
    with tracking(Run("exp", str(tmp_path)), resumed=checkpoint.with_name("best.ckpt")) as loggers:
        assert loggers[0].version == 1  # a branch, not a continuation
    with tracking(Run("other", str(tmp_path)), resumed=checkpoint) as loggers:
        assert loggers[0].version == 0  # another name's run is not written into
    assert wandb_id(tmp_path / "none") is None


@pytest.mark.torture("a run's folder that is resumed has a link elsewhere", "it is not written in")
def test_a_folder_with_a_link_elsewhere_is_not_gone_on_in(tmp_path):
    folder = tmp_path / "exp" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "own").symlink_to("checkpoints")
    last = folder / "checkpoints" / "last.ckpt"
    with tracking(Run("exp", str(tmp_path)), resumed=last) as loggers:
        assert loggers[0].version == "version_0"
    (folder / "heatmaps").symlink_to(tmp_path)
    with tracking(Run("exp", str(tmp_path)), resumed=last) as loggers:
        assert loggers[0].version == 1
