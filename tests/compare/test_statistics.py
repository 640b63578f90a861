"""Statistics and the summary against their definitions, written out slowly."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from fabricated import FAILED, IMAGES, usual
from scipy.stats import wilcoxon

from dmn.compare.statistics import best_rivals, holm, interval, paired_p, places
from dmn.compare.summary import OVERALL, cost, number, ranks, summarise
from dmn.errors import UnknownNameError
from dmn.evaluate import METRICS


@pytest.fixture(scope="module")
def made():
    return usual()[0]


@pytest.fixture(scope="module")
def summary():
    return usual()[1]


def literal_holm(p):
    """Step down: the k-th least of m is compared with level / (m - k + 1)."""
    corrected, worst = {}, 0.0
    for step, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        worst = max(worst, min(1.0, p[index] * (len(p) - step)))
        corrected[index] = worst
    return [corrected[index] for index in range(len(p))]


def literal_wilcoxon(differences):
    """Count the signings of the ranks that are as extreme as the one seen (no ties)."""
    order = sorted(range(len(differences)), key=lambda i: abs(differences[i]))
    rank = {index: place for place, index in enumerate(order, start=1)}
    seen = sum(rank[i] for i, d in enumerate(differences) if d > 0)
    sums = [
        sum(r for r, positive in zip(rank.values(), signs, strict=True) if positive)
        for signs in itertools.product([False, True], repeat=len(rank))
    ]
    extreme = min(sum(s <= seen for s in sums), sum(s >= seen for s in sums))
    return min(1.0, 2 * extreme / len(sums))


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_has_the_quantiles_of_the_means_of_resamples(level):
    values = np.random.default_rng(1).exponential(size=40)
    rows = np.random.default_rng(3).integers(40, size=(10_000, 40))
    expected = np.quantile(values[rows].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    assert interval(values, level, seed=3) == pytest.approx(expected, rel=1e-12)
    assert interval([*values, math.nan, math.inf]) == interval(values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_equal_scores_have_an_interval_of_one_point(value):
    assert interval([value] * 7) == pytest.approx((value, value), rel=1e-12)


def test_interval_holds_the_true_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = [
        low <= 0 <= high
        for low, high in (interval(random.normal(size=40), resamples=800) for _ in range(400))
    ]
    assert 0.9 < np.mean(held) < 0.98


def test_interval_is_seeded_and_the_same_in_blocks(monkeypatch):
    values = np.random.default_rng(0).normal(size=7)
    whole = interval(values)
    assert whole == interval(values) != interval(values, seed=1)
    monkeypatch.setattr("dmn.compare.statistics.BLOCK", 100)
    assert interval(values) == whole


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, 2.0]])
def test_one_image_has_no_interval(values):
    assert all(math.isnan(end) for end in interval(values))


@pytest.mark.parametrize("size", [5, 9])
def test_paired_test_by_its_definition(size):
    random = np.random.default_rng(size)
    first, second = random.normal(0.4, 1, size), random.normal(size=size)
    expected = literal_wilcoxon(list(first - second))
    assert paired_p(first, second) == pytest.approx(expected)
    assert paired_p(second, first) == pytest.approx(expected)


def test_paired_test_is_scipys_on_common_images():
    random = np.random.default_rng(0)
    first, second = random.normal(0.3, 1, 60), random.normal(size=60)
    expected = wilcoxon(first[5:55], second[5:55]).pvalue
    first[:5], second[55:] = math.nan, math.inf
    assert paired_p(first, second) == pytest.approx(expected)


def test_paired_test_of_equal_scores_and_of_no_scores():
    same = np.ones(12)
    assert paired_p(same, same) == 1
    assert math.isnan(paired_p([math.nan, 1.0], [1.0, math.nan]))
    assert paired_p([0, 1] * 10, [1, 0] * 10) == 1  # all tied but for the sign


def test_paired_test_finds_what_a_constant_shift_hides_in_the_spread():
    random = np.random.default_rng(0)
    hard = random.normal(0, 10, 30)
    assert paired_p(hard, hard + random.uniform(0.01, 0.1, 30)) < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_holm_by_its_definition(seed):
    p = np.random.default_rng(seed).uniform(0, 0.3, 8).round(2)
    assert holm(p) == pytest.approx(literal_holm(list(p)))


def test_holm_leaves_untested_out_of_the_family():
    corrected = holm([0.04, math.nan, 0.01])
    assert corrected[[0, 2]] == pytest.approx([0.04, 0.02])
    assert math.isnan(corrected[1])


def test_places_by_hand():
    goodness = [0.9, 0.5, 0.5, math.nan, 0.7]
    competing = [True, True, True, True, False]
    assert places(goodness, competing).tolist() == [1, 2.5, 2.5, 4, 2]
    assert np.isnan(places([math.nan, 1.0], [True, False])).all()


def test_controls_move_nobodys_place():
    goodness, competing = np.array([0.9, 0.5, 0.7, 2.0]), np.array([True, True, True, False])
    assert places(goodness, competing)[:3].tolist() == places(goodness[:3], [True] * 3).tolist()


def test_rivals_are_the_best_of_the_others():
    assert best_rivals([1, 3, math.nan, 9, 2], [True] * 3 + [False, True]) == [1, 4, 1, 1, 1]
    assert best_rivals([1.0, 2.0], [True, False]) == [None, 0]


def test_summary_has_every_entry_and_metric_of_the_test_split(made, summary):
    assert len(summary) == 8 * len(METRICS)
    assert list(summary["metric"].unique()) == list(METRICS)
    test = made.scores[made.scores["split"] == "test"]
    means = test.groupby(["entry", "metric"])["value"].mean()
    for row in summary.itertuples():
        assert row.mean == pytest.approx(means[row.entry, row.metric], nan_ok=True)
        assert row.n == 0 or row.low <= row.mean <= row.high
        assert row.n + row.dropped == IMAGES


def test_best_is_no_control_and_follows_the_direction(summary):
    for metric, rows in summary.groupby("metric"):
        competing = rows[rows["kind"] != "control"].set_index("entry")["mean"]
        best = competing.idxmax() if METRICS[metric].higher_is_better else competing.idxmin()
        assert list(rows[rows["best"]]["entry"]) == [best]
        assert set(rows[~rows["best"]]["rival"]) == {best}
        assert rows[rows["best"]]["rival"].item() not in ("", best)
        assert "map" not in " ".join(rows["rival"])  # the controls' names


def test_a_control_that_wins_is_not_best(made):
    scores = made.scores.copy()
    scores.loc[scores["method"] == "random map", "value"] = 0.0
    rows = summarise(scores, made.cells)
    rows = rows[rows["metric"] == "MaxSensitivity"].set_index("method")
    assert rows["rank"]["random map"] == 1
    assert not rows["best"]["random map"]
    assert rows[rows["kind"] != "control"]["rank"].min() == 1


def test_p_values_are_corrected_over_the_table(made, summary):
    test = made.scores[made.scores["split"] == "test"]
    values = test.set_index(["metric", "entry", "image"])["value"].sort_index()
    raw = [
        paired_p(values[row.metric, row.entry], values[row.metric, row.rival])
        for row in summary.itertuples()
    ]
    tested = [index for index, p in enumerate(raw) if not math.isnan(p)]
    expected = literal_holm([raw[index] for index in tested])
    assert summary["p"].to_numpy()[tested] == pytest.approx(expected)
    assert (summary["significant"] == (summary["p"] < 0.05)).all()


def test_cells_that_failed_keep_their_reason_and_come_last(summary):
    row = summary[(summary["metric"] == "RandomLogit") & (summary["method"] == "Grad-CAM")]
    assert (row["n"].item(), row["reasons"].item()) == (0, f"{IMAGES}x {FAILED}")
    assert row["rank"].item() == 6
    dropped = summary[(summary["entry"] == "resnet18 SplitCAM")]
    assert set(dropped["reasons"]) == {"3x map is constant"}


def test_a_cell_that_was_never_run_says_so(made):
    gone = (made.cells["metric"] == "Sparseness") & (made.cells["method"] == "SplitLRP")
    gone_too = (made.scores["metric"] == "Sparseness") & (made.scores["method"] == "SplitLRP")
    summary = summarise(made.scores[~gone_too], made.cells[~gone])
    row = summary[(summary["metric"] == "Sparseness") & (summary["method"] == "SplitLRP")]
    assert row["reasons"].item() == "not scored"


def test_an_unknown_metric_is_refused(made):
    with pytest.raises(UnknownNameError, match="Beauty"):
        summarise(made.scores, made.cells.replace({"metric": {"Sparseness": "Beauty"}}))


def test_ranks_by_hand(summary):
    table = ranks(summary).set_index(["entry", "category"])
    entry = "resnet18 SplitCAM"
    own = summary[summary["entry"] == entry]
    means = []
    for category in own["category"].unique():
        rows = own[own["category"] == category]
        assert table["rank"][entry, category] == pytest.approx(rows["rank"].mean())
        assert table["wins"][entry, category] == rows["best"].sum()
        means.append(rows["rank"].mean())
    assert table["rank"][entry, OVERALL] == pytest.approx(np.mean(means))
    assert table["wins"][entry, OVERALL] == own["best"].sum()


def test_ranks_come_by_kind_then_place(summary):
    table = ranks(summary)
    kinds = table.drop_duplicates("entry")["kind"].tolist()
    assert kinds == sorted(kinds, key=["self", "post-hoc", "control"].index)
    overall = table[table["category"] == OVERALL]
    assert overall.groupby("kind")["rank"].is_monotonic_increasing.all()


def test_cost_is_seconds_a_map(made):
    cells = pd.concat([made.cells, made.cells[:1].assign(split="test", entry="none", n=0)])
    seconds = cost(cells)
    assert seconds["dmn-resnet SplitLRP"] == pytest.approx(0.06 / IMAGES)
    assert "none" not in seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-0.5, "-0.500"),
        (93.0, "93.00"),
        (1234.5, "1234"),
        (0, "0.000"),
        (1e-5, "1.0e-05"),
        (123456, "1.2e+05"),
        (math.nan, "—"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
