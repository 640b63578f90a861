"""Weights & Biases: one call an epoch, keys that are only text, and none at all."""

import csv
import os

import numpy as np
import pytest
from train_problem import make_task

from dmn.tracking import Run, tracking
from dmn.tracking.wandb import wandb_folders, wandb_id, wandb_key
from dmn.train import HeatmapLogger, QuantusLogger


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
    with open(tmp_path / "exp/version_0/metrics.csv") as file:
        assert len(list(csv.DictReader(file))) == 2
