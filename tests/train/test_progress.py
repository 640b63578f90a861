"""What a run says while it goes, and what it leaves when it ends."""

import csv
import json
import math
import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from train_problem import make_task

from dmn.errors import WriteError
from dmn.tracking import Run, tracking, wandb_folders
from dmn.train import EpochLines, HeatmapLogger, QuantusLogger, RunSummary, progress_bar
from dmn.train.progress import summarise_run


def test_a_bar_for_terminals_and_lines_for_logs(monkeypatch):
    for is_terminal, kind in ((True, RichProgressBar), (False, EpochLines)):
        monkeypatch.setattr("sys.stdout.isatty", lambda value=is_terminal: value)
        assert type(progress_bar()) is kind


def test_one_line_an_epoch(task, data, make_trainer, capsys):
    make_trainer(EpochLines(), enable_progress_bar=True).fit(task, data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    pattern = (
        r"epoch 2/2  train/loss [\d.]+  train/acc [\d.]+  val/loss [\d.]+  val/acc [\d.]+  [\d.]+ s"
    )
    assert re.fullmatch(pattern, lines[1])


@pytest.fixture
def summarised(data, make_trainer, tmp_path, capsys):
    def run(*callbacks, **options):
        with tracking(Run("exp", str(tmp_path))) as loggers:
            best = ModelCheckpoint(filename="best", monitor="val/acc", mode="max", save_last=True)
            trainer = make_trainer(
                *callbacks, best, RunSummary(), logger=loggers, enable_checkpointing=True, **options
            )
            trainer.fit(make_task(), data)
        return capsys.readouterr().out

    return run


def test_the_summary_names_what_there_is(summarised, tmp_path):
    out = summarised(HeatmapLogger(2), QuantusLogger(["Sparseness"], 2))
    folder = tmp_path / "exp" / "version_0"
    for path in ("metrics.csv", "heatmaps", "checkpoints/best.ckpt"):
        assert str(folder / path) in out
        assert (folder / path).exists()
    (sync,) = re.findall(r"wandb sync (.+)", out)
    assert (tmp_path / sync).is_dir()
    assert re.search(r"training took +\d+ s, of which scoring and heatmaps \d+ s \(\d+%\)", out)
    assert re.search(r"best by val/acc .*best\.ckpt \(\d\.\d{4}\)", out)


def test_the_summary_is_left_as_data(summarised, tmp_path):
    summarised(HeatmapLogger(2), QuantusLogger(["Sparseness"], 2))
    folder = tmp_path / "exp" / "version_0"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["job"] == "fit"
    assert Path(summary["run"]) == folder
    for name in ("metrics_file", "heatmaps", "checkpoints"):
        assert Path(summary[name]).parent == folder
        assert Path(summary[name]).exists(), name
    (best,) = summary["best"].items()
    assert best[0] == "val/acc"
    assert Path(best[1]["checkpoint"]) == folder / "checkpoints/best.ckpt"
    with open(summary["metrics_file"]) as file:
        rows = list(csv.DictReader(file))
    assert best[1]["score"] == pytest.approx(max(float(row["val/acc"]) for row in rows))
    assert summary["metrics"]["val/acc"] == pytest.approx(float(rows[-1]["val/acc"]))
    assert 0 < summary["seconds"]["watching"] < summary["seconds"]["total"]
    assert [Path(path) for path in summary["wandb"]] == wandb_folders(folder)
    assert summary["versions"]["torch"] == version("torch")
    assert shlex.split(summary["command"])[1:] == sys.argv[1:]


def test_what_is_not_finite_is_none_in_the_summary(data, make_trainer, tmp_path):
    trainer = make_trainer(RunSummary())
    trainer.callback_metrics["val/acc"] = torch.tensor(math.nan)
    trainer.callback_metrics["val/loss"] = torch.tensor(0.5)
    summary = summarise_run(trainer, tmp_path, 1.0)
    assert summary["metrics"] == {"val/acc": None, "val/loss": 0.5}


@pytest.mark.parametrize("job", ["validate", "test"])
def test_validations_and_tests_leave_their_metrics(job, data, make_trainer, tmp_path, capsys):
    with tracking(Run("exp", str(tmp_path)), job) as loggers:
        trainer = make_trainer(RunSummary(), logger=loggers)
        (logged,) = getattr(trainer, job)(make_task(), data, verbose=False)
    summary = json.loads((tmp_path / "exp" / job / "version_0/summary.json").read_text())
    assert summary["job"] == job
    assert summary["metrics"].items() >= logged.items()
    assert summary["best"] == {}
    assert "training took" not in capsys.readouterr().out


@pytest.mark.torture("the summary of a training cannot be written", "it is printed all the same")
def test_a_summary_that_cannot_be_written_is_printed(summarised, monkeypatch, caplog):
    def refuse(*_):
        raise WriteError("no space left")

    monkeypatch.setattr("dmn.train.progress.write_whole", refuse)
    assert "training took" in summarised()
    assert "summary: writing summary.json failed by WriteError: no space left" in caplog.text


def test_an_interrupted_run_says_how_to_go_on(summarised, capsys):
    class Interrupt(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        summarised(Interrupt())
    out = capsys.readouterr().out
    assert re.search(r"interrupted; the last whole epoch is .*last\.ckpt; resume with", out)
