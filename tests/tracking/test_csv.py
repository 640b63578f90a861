"""`metrics.csv`: a row an epoch, whatever a folder holds already."""

import csv
import logging
import multiprocessing

import pytest
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.utilities import rank_zero_only

from dmn.tracking import EpochCSVLogger
from dmn.train import QuantusLogger


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


@pytest.mark.torture(
    "metrics.csv cut at any place, in its header too, before a run is resumed",
    "told; the damaged file is kept, and its whole rows stand in the new one",
)
@fuzzed(30)
@given(st.data())
def test_a_damaged_file_is_kept_and_told(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "run" / "version_0" / "metrics.csv"
    logger = EpochCSVLogger(folder, "run", version="version_0")
    for epoch in range(3):
        logger.log_metrics({"epoch": epoch, "val/acc": 0.5, "train/loss": 1.0}, epoch)
        logger.save()
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    header = text.index("\n")
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    whole = max(cut.count("\n") - 1, 0)
    path.write_text(cut)
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(
            logging.getLogger("dmn.tracking.csv"), "warning", lambda *words: said.append(words)
        )
        resumed = EpochCSVLogger(folder, "run", version="version_0")
        resumed.log_metrics({"epoch": 3, "val/acc": 0.5, "train/loss": 1.0}, 3)
        resumed.save()
    assert [row["epoch"] for row in csv.DictReader(path.read_text().splitlines())] == [
        *"012"[:whole],
        "3",
    ]
    kept = path.with_name("metrics.csv.damaged_1")
    between_rows = cut.endswith("\n") and len(cut) > header + 1
    assert kept.exists() == bool(said) == (not between_rows)
    assert between_rows or kept.read_text() == cut
