import pandas as pd
import pytest

from dmn.compare.comparison import write_tables

NAMES = ["=HYPERLINK(A1)", "+x", "-x", "@x", "\tx", "Grad-CAM", "日本", "-1.5"]


@pytest.mark.torture(
    "networks and methods called as a spreadsheet's formulas are",
    "marked by a leading ' in CSV, as they are in parquet; numbers as they are in both",
)
def test_formulas_are_only_text_in_csv(tmp_path):
    table = pd.DataFrame({"entry": NAMES, "value": [-0.5, float("nan"), *range(6)]})
    write_tables(tmp_path, {"scores": table})
    assert pd.read_parquet(tmp_path / "scores.parquet").equals(table)
    read = pd.read_csv(tmp_path / "scores.csv", dtype={"entry": str})
    assert read["value"].equals(table["value"])
    marked = [f"'{name}" for name in NAMES[:5]]
    assert read["entry"].tolist() == [*marked, *NAMES[5:]]
