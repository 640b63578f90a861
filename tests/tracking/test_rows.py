import csv
import logging

import pytest
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from dmn.train import EpochCSVLogger


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
            logging.getLogger("dmn.tracking.rows"), "warning", lambda *words: said.append(words)
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
