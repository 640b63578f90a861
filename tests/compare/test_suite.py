"""The suite chooses by the stated rule, scores each cell once, and survives what fails."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dmn.compare import Budget, ComparedImages, Suite
from dmn.compare.cells import CellStore
from dmn.compare.plan import Entry
from dmn.compare.suite import best_setting
from dmn.compare.tasks import Task
from dmn.errors import OptionError
from dmn.hub import Network

SIZE = 8
METRICS = ["PixelFlipping", "PointingGame", "MaxSensitivity"]
CALLS = []


class InkIn(nn.Module):
    """Class k is the ink in column k, so that the right explanation is known."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return self.scale * x.mean(dim=(1, 2))[:, :4]


class Columns(Entry):
    """Explain by the column of the class, moved to the right by the setting."""

    def explainer(self, network, setting, example=None):
        if setting.get("fails"):
            raise ValueError("cannot be made")

        def explain(x, target=None):
            CALLS.append((self.name, len(x)))
            maps = 0.01 * x
            columns = (torch.as_tensor(target) + setting.get("moved", 0)) % SIZE
            maps[torch.arange(len(x)), 0, :, columns] += 1.0
            return maps

        return explain


def entry(name, *settings):
    return Columns(name, "toy", name, name, "post-hoc", settings)


def images(count):
    x = torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(count)) * 0.2
    y = torch.arange(count) % 4
    masks = torch.zeros_like(x)
    for row, column in enumerate(y):
        x[row, 0, :, column] += 0.7
        masks[row, 0, :, column] = 1
    return ComparedImages(x, y, masks, count)


ENTRIES = [
    entry("searched", {"moved": 2}, {"moved": 0}, {"moved": 4}, {"fails": True}),
    entry("fixed", {"moved": 1}),
    entry("broken", {"fails": True}),
]


@pytest.fixture
def suite(tmp_path):
    CALLS.clear()
    return make(tmp_path)


def toy(test, model=None):
    model = (model or InkIn()).eval()
    network = Network("toy", model, tuple("0123"), None, None, None, torch.as_tensor, {})
    return Task(network, {"validation": images(4), "test": test})


def make(folder, **changed):
    options = {
        "tasks": {"toy": toy(images(8))},
        "entries": ENTRIES,
        "metrics": METRICS,
        "choose_by": ["PixelFlipping", "PointingGame"],
        "budget": Budget(expensive=3),
        "store": CellStore(folder / "cells"),
        **changed,
    }
    return Suite(**options)


def test_the_right_setting_is_chosen_on_validation_images_and_scored_on_test_images(suite):
    assert len(list(suite.run())) == len(suite)
    assert suite.chosen == {
        "searched": {"moved": 0},
        "fixed": {"moved": 1},
        "broken": {"fails": True},
    }
    scores = suite.scores()
    tests = scores[scores["split"] == "test"]
    assert set(tests[tests["entry"] == "searched"]["setting"]) == {'{"moved": 0}'}
    assert set(scores[scores["split"] == "validation"]["entry"]) == {"searched"}
    hits = tests[tests["metric"] == "PointingGame"].groupby("entry")["value"].mean()
    assert hits["searched"] == 1
    assert hits["fixed"] == 0
    counts = tests.groupby(["entry", "metric"]).size()
    assert counts["searched", "PixelFlipping"] == 8
    assert counts["searched", "MaxSensitivity"] == 3  # expensive
    assert suite.curves()["searched"].shape[0] == 8


def test_what_fails_is_recorded_with_its_reason_and_the_rest_goes_on(suite):
    list(suite.run())
    cells = suite.cells()
    broken = cells[cells["entry"] == "broken"]
    assert len(broken) == len(METRICS) + 1
    assert broken["reasons"].str.contains("ValueError: cannot be made").all()
    scored = broken[broken["metric"] != "Explanation"]
    assert (scored["n"] == 0).all()
    assert (scored["dropped"] > 0).all()
    values = suite.scores().query("entry == 'broken'")
    assert values["value"].isna().all()
    assert (values["reason"] == "ValueError: cannot be made").all()


def test_nothing_is_scored_twice(suite, tmp_path):
    list(suite.run())
    before = len(CALLS)
    again = make(tmp_path)
    list(again.run())
    assert len(CALLS) == before
    assert again.scores().equals(suite.scores())
    assert again.cells().equals(suite.cells())
    list(make(tmp_path, metrics=[*METRICS, "Sparseness"]).run())  # only that is scored
    assert {length for _, length in CALLS[before:]} == {8}
    assert len(CALLS) == before + 2


def test_a_run_that_is_cut_short_goes_on(tmp_path):
    CALLS.clear()
    whole = make(tmp_path / "whole")
    list(whole.run())
    cut = make(tmp_path / "cut").run()
    for _ in range(7):
        next(cut)
    cut.close()
    CALLS.clear()
    resumed = make(tmp_path / "cut")
    list(resumed.run())
    assert resumed.scores().equals(whole.scores())
    assert ("searched", 4) not in CALLS[:1]


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"budget": Budget(expensive=3, seconds=7.0)},
        {"tasks": {"toy": toy(images(7))}},
    ],
)
def test_what_scores_depend_on_is_part_of_their_key(suite, tmp_path, changed):
    list(suite.run())
    before = len(CALLS)
    list(make(tmp_path, **changed).run())
    assert len(CALLS) > before


def test_other_weights_are_scored_anew(suite, tmp_path):
    list(suite.run())
    before = len(CALLS)
    other = make(tmp_path)
    model = InkIn().eval()
    model.scale.data.mul_(2)
    network = replace(other.tasks["toy"].network, model=model)
    changed = replace(other.tasks["toy"], network=network)
    list(make(tmp_path, tasks={"toy": changed}).run())
    assert len(CALLS) > before


def test_the_rule_is_the_mean_rank_in_each_metrics_direction():
    means = [
        {"PixelFlipping": 0.5, "PointingGame": 0.9},  # ranks 3 and 1
        {"PixelFlipping": 0.2, "PointingGame": 0.8},  # 1 and 2
        {"PixelFlipping": 0.3, "PointingGame": math.nan},  # 2 and 3
    ]
    assert best_setting(means) == 1
    assert best_setting(means[::2]) == 0  # 1 + 2 against 2 + 1: the first of equals
    assert best_setting([{"PixelFlipping": math.nan}] * 2) == 0


@pytest.mark.torture("--budget.{name} {value}", "refused by its name, with what would work")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validation", -1),
        ("test", 0),
        ("expensive", 0),
        ("settings", -3),
        ("seconds", 0.0),
        ("seconds", math.nan),
    ],
)
def test_budgets_that_score_nothing_are_refused(name, value, happened):
    with pytest.raises(OptionError, match=rf"budget\.{name} is {value}; give ") as told:
        Budget(**{name: value})
    happened(str(told.value))
    assert Budget(seconds=math.inf).seconds == math.inf
