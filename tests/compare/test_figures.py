"""Plots are PNGs that differ with what they show, whatever the entries are called."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import usual
from PIL import Image

from dmn.compare import figures
from dmn.compare.summary import cost, ranks


@pytest.fixture(scope="module")
def made():
    return usual()[0]


@pytest.fixture(scope="module")
def summary():
    return usual()[1]


def read(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def has(picture, colour):
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((picture == wanted).all(axis=2).any())


@pytest.fixture
def kinds(summary):
    return dict(zip(summary["entry"], summary["kind"], strict=True))


def test_bars_show_every_kind_in_its_colour(summary):
    picture = read(figures.bars(summary, "localisation"))
    assert all(has(picture, look.colour) for look in figures.STYLES.values())


def test_bars_of_a_wide_range_are_logarithmic(summary, monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "_logarithmic", lambda axes, label: seen.append(label))
    figures.bars(summary, "complexity")
    assert not seen
    wide = summary.copy()
    wide.loc[(wide["metric"] == "Sparseness") & wide["best"], "mean"] = 1e4
    figures.bars(wide, "complexity")
    assert seen == ["log scale"]


def test_curves_leave_out_images_without_a_score(made, kinds):
    whole = read(figures.flipping_curves(made.curves, kinds))
    entry = next(iter(made.curves))
    more = np.vstack([made.curves[entry], np.full((2, 17), np.nan)])
    assert (read(figures.flipping_curves({**made.curves, entry: more}, kinds)) == whole).all()
    none = {**made.curves, entry: np.full((2, 17), np.nan)}
    assert not np.array_equal(read(figures.flipping_curves(none, kinds)), whole)


def test_cost_shows_what_was_timed(made, summary):
    table, seconds = ranks(summary), cost(made.cells)
    picture = read(figures.score_against_cost(table, seconds))
    assert all(has(picture, look.colour) for look in figures.STYLES.values())
    some = {entry: time for entry, time in seconds.items() if "dmn" not in entry}
    assert not has(read(figures.score_against_cost(table, some)), figures.STYLES["self"].colour)


def test_names_that_look_like_formulas_are_drawn_as_they_are(summary, made, kinds):
    def odd(entry):
        return f"$\\frac{{{entry}$ <b> and so on and so on"

    few = summary[summary["category"] == "robustness"]
    renamed = few.assign(entry=few["entry"].map(odd))
    for draw in (
        lambda: figures.rank_table(ranks(renamed)),
        lambda: figures.bars(renamed, "robustness"),
        lambda: figures.score_against_cost(ranks(renamed), {odd(e): 1.0 for e in kinds}),
        lambda: figures.flipping_curves(
            {odd(e): curve for e, curve in made.curves.items()},
            {odd(e): kind for e, kind in kinds.items()},
        ),
    ):
        assert read(draw()).std() > 0


def test_a_large_comparison_grows_instead_of_crowding(summary):
    many = ranks(summary[summary["category"] == "complexity"])
    small = read(figures.rank_table(many)).shape
    more = [many.assign(entry=many["entry"] + text) for text in "abcde"]
    assert read(figures.rank_table(pd.concat(more))).shape[0] > 3 * small[0]


def test_gallery_and_pictures_keep_their_colours():
    red = torch.zeros(2, 3, 4, 4)
    red[:, 0] = 1
    assert has(read(figures.gallery({"image": red}, ["one", "two"])), "#ff0000")
    assert (read(figures.png(red[0])) == [255, 0, 0]).all()


def test_drawing_leaves_matplotlib_as_it_was(summary):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.bars(summary, "complexity")
    assert dict(matplotlib.rcParams) == before
