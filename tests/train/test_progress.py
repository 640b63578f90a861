import re

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from train_problem import make_task

from dmn.train import (
    EpochLines,
    HeatmapLogger,
    QuantusLogger,
    Run,
    RunSummary,
    progress_bar,
    tracking,
)


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


def test_an_interrupted_run_says_how_to_go_on(summarised, capsys):
    class Interrupt(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        summarised(Interrupt())
    out = capsys.readouterr().out
    assert re.search(r"interrupted; the last whole epoch is .*last\.ckpt; resume with", out)
