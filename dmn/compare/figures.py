"""The report's plots, as PNG; drawn without pyplot's state.

Colours are Okabe and Ito's, told apart by the colour-blind; kinds differ by shape and line as well.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from dmn.compare.statistics import Floats
from dmn.compare.summary import OVERALL, arrow, place

DPI = 110
NAME = 36  # letters of an entry's name that are shown
ROW = 0.27  # inches of height for one entry
SPREAD = 100  # greatest over least value above which an axis is logarithmic
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195")


@dataclass(frozen=True)
class Look:
    """How a kind of entry is drawn."""

    colour: str
    marker: str
    line: str
    width: float
    hatch: str = ""


LOOKS = {
    "self": Look("#D55E00", "o", "-", 2.6),
    "post-hoc": Look("#0072B2", "s", "-", 1.1),
    "control": Look("#8A8A8A", "D", ":", 1.4, "////"),
}


def rank_table(ranks: pd.DataFrame) -> bytes:
    """Draw mean ranks, entries by categories; a star for each metric won.

    Args:
        ranks: Of `dmn.compare.summary.ranks`.
    """
    entries, categories = list(ranks["entry"].unique()), list(ranks["category"].unique())
    cells = ranks.set_index(["entry", "category"])
    grid = cells["rank"].unstack().reindex(index=entries, columns=categories).to_numpy(float)
    with _figure(2.5 + 1.2 * len(categories), 1 + ROW * len(entries)) as (figure, drawn):
        axes = figure.subplots()
        image = axes.imshow(grid, cmap="YlGnBu_r", aspect="auto", vmin=1)
        for (row, column), value in np.ndenumerate(grid):
            wins = int(cells["wins"].get((entries[row], categories[column]), 0))
            dark = image.norm(value) < 0.5
            text = place(value) + (" ★" * bool(wins)) + (str(wins) if wins > 1 else "")
            axes.text(column, row, text, ha="center", va="center", color="kw"[bool(dark)], size=9)
        axes.set_xticks(range(len(categories)), categories)
        axes.axvline(len(categories) - 1.5, color="white", linewidth=4)
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.spines[:].set_visible(False)
        _name_rows(axes, _kinds(ranks))
        figure.supxlabel("mean place, 1 is best; ★ metrics won", size=9)
    return drawn.getvalue()


def flipping_curves(curves: Mapping[str, Floats], kinds: Mapping[str, str]) -> bytes:
    """Draw how the class' probability falls as the pixels that matter most are flipped.

    Args:
        curves: Entry → probabilities, (N, steps + 1), NaN for images without a score.
        kinds: Entry → kind.
    """
    means = {}
    for entry, values in curves.items():
        scored = np.isfinite(values).all(axis=1)
        if scored.any():
            means[entry] = np.asarray(values)[scored].mean(axis=0)
    with _figure(8, max(4.2, 0.19 * len(means) + 1)) as (figure, drawn):
        axes = figure.subplots()
        colours = {entry: LINES[place % len(LINES)] for place, entry in enumerate(means)}
        for entry, mean in means.items():
            look = LOOKS[kinds[entry]]
            colours[entry] = look.colour if kinds[entry] == "control" else colours[entry]
            shares = np.linspace(0, 1, len(mean))
            axes.plot(shares, mean, look.line, color=colours[entry], linewidth=look.width)
        axes.set(xlim=(0, 1), xlabel="share of pixels flipped, most relevant first")
        axes.set(ylabel="mean probability of the class")
        ends = {entry: (1.0, float(mean[-1])) for entry, mean in means.items()}
        _label(axes, ends, colours, kinds)
    return drawn.getvalue()


def score_against_cost(ranks: pd.DataFrame, seconds: Mapping[str, float]) -> bytes:
    """Draw the overall mean rank of each entry against the time of one map.

    Args:
        ranks: Of `dmn.compare.summary.ranks`.
        seconds: Entry → seconds a map.
    """
    overall = ranks[ranks["category"] == OVERALL].set_index("entry")["rank"].dropna()
    kinds = _kinds(ranks)
    points = {e: (seconds[e], float(r)) for e, r in overall.items() if seconds.get(e, 0) > 0}
    with _figure(8, max(4.2, 0.19 * len(points) + 1)) as (figure, drawn):
        axes = figure.subplots()
        for entry, (time, rank) in points.items():
            look = LOOKS[kinds[entry]]
            axes.plot(time, rank, look.marker, color=look.colour, markersize=8, mec="white")
        _logarithmic(axes, "seconds a map (log scale; left is cheaper)")
        axes.set(ylabel="overall mean place (top is better)")
        axes.invert_yaxis()
        _label(axes, points, {entry: LOOKS[kinds[entry]].colour for entry in points}, kinds)
    return drawn.getvalue()


def bars(summary: pd.DataFrame, category: str) -> bytes:
    """Draw the means of one category's metrics with their 95 % intervals, entries in given order.

    Args:
        summary: Of `dmn.compare.summary.summarise`.
        category: One of its categories.
    """
    rows = summary[summary["category"] == category]
    metrics = rows["metric"].unique()
    kinds = _kinds(rows)
    size = (2.2 + 2.3 * max(2, len(metrics)), 1 + ROW * len(kinds))
    with _figure(*size) as (figure, drawn):
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            values = rows[rows["metric"] == metric].set_index("entry").reindex(list(kinds))
            for place, (entry, row) in enumerate(values.iterrows()):
                look = LOOKS[kinds[str(entry)]]
                style = {"hatch": look.hatch, "edgecolor": "white", "linewidth": 0}
                axes.barh(place, row["mean"], 0.72, color=look.colour, **style)
                axes.plot([row["low"], row["high"]], [place, place], color="#222", linewidth=1.4)
            positive = values["mean"][values["mean"] > 0]
            if len(positive) == values["mean"].notna().sum() > 0:
                if positive.max() / positive.min() > SPREAD:
                    _logarithmic(axes, "log scale")
            elif (values["mean"] < 0).any():
                axes.axvline(0, color="#222", linewidth=0.8)
            axes.set_title(f"{metric} {arrow(metric)}", size=10)
            axes.grid(axis="x", color="#ddd")
            axes.tick_params(axis="y", length=0)
        panels[0].invert_yaxis()
        _name_rows(panels[0], kinds)
    return drawn.getvalue()


def gallery(pictures: Mapping[str, Tensor], rows: Sequence[str]) -> bytes:
    """Draw pictures as a titled grid.

    Args:
        pictures: Title → pictures (N, 3, H, W) in [0, 1], one a row.
        rows: What is written before each row, N.
    """
    gap = 1.06
    with _figure(1.6 + 1.1 * len(pictures), 1.8 + 1.1 * len(rows)) as (figure, drawn):
        axes = figure.subplots()
        for column, stack in enumerate(pictures.values()):
            for row, picture in enumerate(stack):
                left, top = column * gap, row * gap
                axes.imshow(_array(picture), extent=(left, left + 1, top + 1, top))
        axes.set(xlim=(0, len(pictures) * gap), ylim=(len(rows) * gap, 0), aspect="equal")
        centres = (np.arange(max(len(pictures), len(rows))) * gap) + 0.5
        axes.set_xticks(
            centres[: len(pictures)], [_short(title) for title in pictures], rotation=40, ha="left"
        )
        axes.set_yticks(centres[: len(rows)], [_short(text) for text in rows])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.spines[:].set_visible(False)
    return drawn.getvalue()


def png(picture: Tensor) -> bytes:
    """Encode a picture (3, H, W) in [0, 1]."""
    from matplotlib.image import imsave

    drawn = io.BytesIO()
    imsave(drawn, _array(picture), format="png")
    return drawn.getvalue()


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """Make a figure of some inches; it is written as PNG when all is drawn."""
    from matplotlib import rc_context  # takes a second
    from matplotlib.figure import Figure

    drawn = io.BytesIO()
    plain: Any = {"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context({**plain, "font.size": 9, "axes.axisbelow": True}):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure, drawn
        figure.savefig(drawn, format="png")


def _array(picture: Tensor) -> Any:
    return picture.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()


def _kinds(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["entry"], table["kind"], strict=True))


def _logarithmic(axes: Any, label: str) -> None:
    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_formatter("{x:g}")  # powers of ten would be drawn as formulas


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _name_rows(axes: Any, kinds: Mapping[str, str]) -> None:
    """Write the entries' names in the colour of their kind; self-explanations' bold."""
    axes.set_yticks(range(len(kinds)), [_short(entry) for entry in kinds])
    axes.tick_params(axis="y", length=0)
    for label, kind in zip(axes.get_yticklabels(), kinds.values(), strict=True):
        label.set(color=LOOKS[kind].colour, weight="bold" if kind == "self" else "normal")


def _label(
    axes: Any,
    points: Mapping[str, tuple[float, float]],
    colours: Mapping[str, str],
    kinds: Mapping[str, str],
) -> None:
    """Name points at the right margin, one line each, as near to their height as there is room."""
    to_share = axes.transData + axes.transAxes.inverted()
    heights = {entry: to_share.transform(point)[1] for entry, point in points.items()}
    order = sorted(points, key=heights.__getitem__)
    step = 0.98 / max(len(order), 18)
    room = step * np.arange(len(order))
    low = np.maximum.accumulate([heights[e] for e in order] - room) + room if order else room
    shares = np.minimum(low, 1 - room[::-1])
    for entry, share in zip(order, shares, strict=True):
        axes.annotate(
            _short(entry),
            points[entry],
            (1.06, share),
            textcoords="axes fraction",
            va="center",
            color=colours[entry],
            weight="bold" if kinds[entry] == "self" else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": "#bbb",
                "linewidth": 0.6,
                "shrinkA": 0,
                "relpos": (0, 0.5),
            },
        )
