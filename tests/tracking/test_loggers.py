import csv
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from pytorch_lightning.utilities import rank_zero_only
from train_problem import make_task

from dmn.tracking.loggers import wandb_folders, wandb_id, wandb_key
from dmn.train import EpochCSVLogger, HeatmapLogger, QuantusLogger, Run, tracking


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_metrics_of_an_epoch_stand_in_one_row(task, data, make_trainer, tmp_path):
    logger = EpochCSVLogger(tmp_path, "run")
    make_trainer(QuantusLogger(["Sparseness"], 2), logger=logger, max_epochs=3).fit(task, data)
    table = rows(tmp_path / "run" / "version_0" / "metrics.csv")
    assert [int(row["epoch"]) for row in table] == [0, 1, 2]
    for row in table:
        assert all(row.values())
    for key in ("train/loss", "val/acc", "constraint/min_weight", "quantus/Sparseness/splitcam"):
        assert key in table[0]


def test_tests_are_written_too(task, data, make_trainer, tmp_path):
    make_trainer(logger=EpochCSVLogger(tmp_path, "run")).test(task, data, verbose=False)
    (row,) = rows(tmp_path / "run" / "version_0" / "metrics.csv")
    assert float(row["test/acc"]) <= 1


def test_weights_and_biases_gets_one_log_call_an_epoch(data, make_trainer, tmp_path, monkeypatch):
    calls = []
    with tracking(Run("exp", str(tmp_path))) as loggers:
        run = loggers[1].experiment
        monkeypatch.setattr(run, "log", lambda values, **options: calls.append((values, options)))
        trainer = make_trainer(HeatmapLogger(2), QuantusLogger(["Sparseness"], 2), logger=loggers)
        trainer.fit(make_task(), data)
    assert len(calls) == 2
    for epoch, (values, options) in enumerate(calls):
        assert values["epoch"] == epoch
        assert values["trainer/global_step"] == 3 * (epoch + 1) - 1
        assert not options  # no step: it would not line up
        assert {"train/loss", "val/acc", "heatmap/splitcam", "heatmap/splitlrp"} <= set(values)
        assert type(values["heatmap/splitcam"][0]).__name__ == "Image"


KEYS = {
    "quantus/PixelFlipping/splitcam": "quantus/PixelFlipping/splitcam",
    "quantus/PointingGame/net GradCAM (a=0.5)": "quantus/PointingGame/net GradCAM (a=0.5)",
    "heatmap/../../evil": "heatmap/%2E./%2E./evil",
    "heatmap/größe 漢字": "heatmap/größe 漢字",
    "<script>\"'&%": "%3Cscript%3E%22%27%26%25",
    "a\0b\nc\u202e": "a%00b%0Ac%202E",
}


@pytest.mark.torture(
    "what a network logs is called {name!r}", "a key of Weights & Biases that is only text"
)
@pytest.mark.parametrize("name", KEYS)
def test_keys_of_weights_and_biases_are_only_text(name, happened):
    happened(wandb_key(name))
    assert wandb_key(name) == KEYS[name]


def test_pictures_of_any_name_stay_within_the_run(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    with tracking(Run("exp", str(tmp_path))) as loggers:
        loggers[1].log_image("heatmap/../../../../../../evil <b>", [picture])
        loggers[1].log_metrics({"epoch": 0, "train/loss": 1.0}, 0)
        assert not loggers[1].failures.counts
    (path,) = tmp_path.rglob("*.png")
    assert "/files/media/images/heatmap/%2E./" in str(path.resolve())


def test_offline_runs_keep_their_pictures_and_leave_no_trace(data, make_trainer, tmp_path):
    import wandb

    with tracking(Run("exp", str(tmp_path), project="p")) as loggers:
        make_trainer(HeatmapLogger(2), logger=loggers).fit(make_task(), data)
        settings = loggers[1].experiment.settings
        assert (settings.run_group, settings.run_job_type, settings.project) == (
            "exp",
            "train",
            "p",
        )
    assert wandb.run is None
    assert "WANDB_MODE" not in os.environ
    folder = tmp_path / "exp" / "version_0"
    (offline,) = wandb_folders(folder)
    assert len(list(offline.glob("files/media/images/heatmap/*.png"))) == 4  # 2 methods x 2 epochs
    assert offline.name.endswith(f"-{wandb_id(folder)}")


def test_everything_is_closed_when_the_run_fails(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")

    def fail():
        with tracking(Run("e", str(tmp_path))) as loggers:
            assert loggers[1].experiment is wandb.run
            raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        fail()
    assert wandb.run is None
    assert os.environ["WANDB_MODE"] == "offline"


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


@pytest.mark.torture(
    "metrics.csv cannot be written for an epoch", "its row is written with the next one's"
)
def test_rows_that_could_not_be_written_go_with_the_next(tmp_path, monkeypatch):
    logger = EpochCSVLogger(tmp_path, "run")

    def log(epoch):
        logger.log_metrics({"epoch": epoch, "train/loss": 1.0}, epoch)
        logger.save()

    log(0)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        log(1)
    log(2)
    table = rows(tmp_path / "run" / "version_0" / "metrics.csv")
    assert [row["epoch"] for row in table] == ["0", "1", "2"]
    assert logger.failures.counts == {"save failed by WriteError": 1}


@pytest.mark.torture(
    "no run of Weights & Biases can be had at all", "there is none, and all goes on"
)
def test_without_any_run_all_goes_on(tmp_path, monkeypatch, data, make_trainer):
    import wandb

    init, modes = wandb.init, []

    def refuse(**options):
        modes.append(options.get("mode"))
        if options.get("mode") != "disabled":
            raise OSError("nowhere to keep it")
        return init(**options)

    monkeypatch.setattr(wandb, "init", refuse)
    with tracking(Run("exp", str(tmp_path))) as loggers:
        make_trainer(HeatmapLogger(2), logger=loggers).fit(make_task(), data)
    assert modes == [None, "offline", "disabled"]
    assert len(rows(tmp_path / "exp/version_0/metrics.csv")) == 2


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path):
    for epochs in ((0, 1), (2, 3)):
        logger = EpochCSVLogger(tmp_path, "run", version="version_0")
        for epoch in epochs:
            logger.log_metrics({"epoch": epoch, "val/acc": epoch / 10}, epoch)
            logger.log_metrics({"epoch": epoch, "train/loss": 1.0}, epoch)
            logger.save()
        logger.log_metrics({"epoch": epoch + 1, "val/acc": 0.0}, epoch + 1)
        logger.finalize("failed")  # cut in an epoch, which will be repeated
    table = rows(tmp_path / "run" / "version_0" / "metrics.csv")
    assert [row["epoch"] for row in table] == ["0", "1", "2", "3"]
    assert [row["val/acc"] for row in table] == ["0.0", "0.1", "0.2", "0.3"]


def _starts(root, barrier, kept):
    barrier.wait()
    kept.put(EpochCSVLogger(root, "exp").log_dir)


@pytest.mark.torture("six runs start at once, again and again", "each has a folder of its own")
def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path, full, happened):
    forks = multiprocessing.get_context("fork")
    barrier, kept = forks.Barrier(6), forks.Queue()
    rounds = 20 if full else 4
    for _ in range(rounds):
        runs = [forks.Process(target=_starts, args=(tmp_path, barrier, kept)) for _ in range(6)]
        for each in runs:
            each.start()
        for each in runs:
            each.join(60)
            assert each.exitcode == 0
    folders = {kept.get(timeout=10) for _ in range(6 * rounds)}
    happened(f"{len(folders)} folders of {6 * rounds} runs")
    assert folders == {str(tmp_path / "exp" / f"version_{k}") for k in range(6 * rounds)}


def test_only_the_first_process_claims_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert EpochCSVLogger(tmp_path, "exp").version == 0
    assert not (tmp_path / "exp").exists()


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
