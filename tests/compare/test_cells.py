"""Cells are kept whole, and told apart by all that they depend on."""

import pytest
import torch

from dmn.compare.cells import Cell, CellStore, fingerprint

SCORED = Cell([0.25, None, 1.0], ["", "map is constant", ""], 0.5, [[1.0, 0.5], [1.0, 0.25]])
FAILED = Cell([None, None], ["ValueError: no", "ValueError: no"], 0.1)


def test_a_cell_comes_back_as_it_was(tmp_path):
    store = CellStore(tmp_path / "cells")
    key = {"metric": "Sparseness", "setting": {"layer": "stem"}}
    assert store.get(key) is None
    store.put(key, SCORED)
    assert CellStore(tmp_path / "cells").get(dict(reversed(key.items()))) == SCORED
    assert store.get({**key, "setting": {"layer": "head"}}) is None
    assert [path.suffix for path in (tmp_path / "cells").iterdir()] == [".json"]


def test_failures_are_kept_too_unless_they_are_to_be_tried_again(tmp_path):
    CellStore(tmp_path).put({"a": 1}, FAILED)
    CellStore(tmp_path).put({"a": 2}, SCORED)
    assert CellStore(tmp_path).get({"a": 1}) == FAILED
    again = CellStore(tmp_path, retry=True)
    assert again.get({"a": 1}) is None
    assert again.get({"a": 2}) == SCORED


def test_a_write_that_is_cut_short_leaves_no_cell(tmp_path, monkeypatch):
    store = CellStore(tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.put({"a": 1}, SCORED)
    assert store.get({"a": 1}) is None


DAMAGE = {
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "nested 10^5 deep": lambda text: "[" * 10**5,
    "without scores": lambda text: text.replace("cell", "sell"),
    "of other fields": lambda text: text.replace("seconds", "minutes"),
    "of texts": lambda text: text.replace("0.25", '"0.25"'),
    "short of a score": lambda text: text.replace("0.25, ", ""),
    "holding NaN": lambda text: text.replace("0.25", "NaN"),
    "in another encoding": lambda text: "\udcff",
}


@pytest.mark.parametrize("done", DAMAGE)
@pytest.mark.torture("a file of a comparison's scores is {done}", "measured again, and said so")
def test_a_damaged_cell_is_measured_again(done, tmp_path, caplog):
    store = CellStore(tmp_path)
    store.put({"a": 1}, SCORED)
    (path,) = tmp_path.iterdir()
    path.write_text(DAMAGE[done](path.read_text()), errors="surrogateescape")
    assert store.get({"a": 1}) is None
    assert f"{path}: damaged, and measured again" in caplog.text
    store.put({"a": 1}, SCORED)
    assert store.get({"a": 1}) == SCORED


def test_counts_and_reasons():
    assert SCORED.n == 2
    assert SCORED.reason_summary == "1x map is constant"
    assert FAILED.reason_summary == "2x ValueError: no"


def test_fingerprints_tell_values_shapes_and_types_apart():
    x = torch.arange(6.0)
    others = [x + 1, x.view(2, 3), x.double(), x[:5], x.int()]
    prints = {fingerprint([each]) for each in [x, *others]}
    assert len(prints) == 6
    assert fingerprint([x]) == fingerprint([x.clone()])
    assert fingerprint([torch.tensor(3)]) != fingerprint([torch.tensor(4)])
