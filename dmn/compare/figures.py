"""The report's plots, as PNG, drawn without the global state of pyplot.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; kinds also differ by
marker and line.
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
NAME = 36  # characters of an entry's name that are shown
ROW = 0.27  # inches of height for one entry
SPREAD = 100  # ratio of largest to smallest value above which an axis is logarithmic
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195")


@dataclass(frozen=True)
class Style:
    """How a kind of entry is drawn."""

    colour: str
    marker: str
    line: str
    width: float
    hatch: str = ""


STYLES = {
    "self": Style("#D55E00", "o", "-", 2.6),
    "post-hoc": Style("#0072B2", "s", "-", 1.1),
    "control": Style("#8A8A8A", "D", ":", 1.4, "////"),
}


def rank_table(ranks: pd.DataFrame) -> bytes:
    """Draw mean ranks, entries by categories, with a star for metrics won.

    Args:
        ranks: Returned by `dmn.compare.summary.ranks`.
    """
    entries, categories = list(ranks["entry"].unique()), list(ranks["category"].unique())
    cells = ranks.set_index(["entry", "category"])
    grid = cells["rank"].unstack().reindex(index=entries, columns=categories).to_numpy(float)
    with _figure(2.5 + 1.2 * len(categories), 1 + ROW * len(entries)) as (figure, buffer):
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
    return buffer.getvalue()


def flipping_curves(curves: Mapping[str, Floats], kinds: Mapping[str, str]) -> bytes:
    """Draw how the class' probability falls as the most relevant pixels are flipped.

    Args:
        curves: Entry → probabilities, (N, steps + 1), NaN for images without a score.
        kinds: Entry → kind.
    """
    means = {}
    for entry, values in curves.items():
        scored = np.isfinite(values).all(axis=1)
        if scored.any():
            means[entry] = np.asarray(values)[scored].mean(axis=0)
    with _figure(8, max(4.2, 0.19 * len(means) + 1)) as (figure, buffer):
        axes = figure.subplots()
        colours = {entry: LINES[place % len(LINES)] for place, entry in enumerate(means)}
        for entry, mean in means.items():
            style = STYLES[kinds[entry]]
            colours[entry] = style.colour if kinds[entry] == "control" else colours[entry]
            shares = np.linspace(0, 1, len(mean))
            axes.plot(shares, mean, style.line, color=colours[entry], linewidth=style.width)
        axes.set(xlim=(0, 1), xlabel="share of pixels flipped, most relevant first")
        axes.set(ylabel="mean probability of the class")
        ends = {entry: (1.0, float(mean[-1])) for entry, mean in means.items()}
        _label_points(axes, ends, colours, kinds)
    return buffer.getvalue()


def score_against_cost(ranks: pd.DataFrame, seconds: Mapping[str, float]) -> bytes:
    """Draw the overall mean rank of each entry against the time of one map.

    Args:
        ranks: Returned by `dmn.compare.summary.ranks`.
        seconds: Entry → seconds per map.
    """
    overall = ranks[ranks["category"] == OVERALL].set_index("entry")["rank"].dropna()
    kinds = _kinds(ranks)
    points = {e: (seconds[e], float(r)) for e, r in overall.items() if seconds.get(e, 0) > 0}
    with _figure(8, max(4.2, 0.19 * len(points) + 1)) as (figure, buffer):
        axes = figure.subplots()
        for entry, (time, rank) in points.items():
            style = STYLES[kinds[entry]]
            axes.plot(time, rank, style.marker, color=style.colour, markersize=8, mec="white")
        _logarithmic(axes, "seconds a map (log scale; left is cheaper)")
        axes.set(ylabel="overall mean place (top is better)")
        axes.invert_yaxis()
        _label_points(axes, points, {entry: STYLES[kinds[entry]].colour for entry in points}, kinds)
    return buffer.getvalue()


def bars(summary: pd.DataFrame, category: str) -> bytes:
    """Draw the means of one category's metrics and their 95 % intervals, in the table's order.

    Args:
        summary: Returned by `dmn.compare.summary.summarise`.
        category: One of its categories.
    """
    rows = summary[summary["category"] == category]
    metrics = rows["metric"].unique()
    kinds = _kinds(rows)
    size = (2.2 + 2.3 * max(2, len(metrics)), 1 + ROW * len(kinds))
    with _figure(*size) as (figure, buffer):
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            values = rows[rows["metric"] == metric].set_index("entry").reindex(list(kinds))
            for place, (entry, row) in enumerate(values.iterrows()):
                style = STYLES[kinds[str(entry)]]
                edge = {"hatch": style.hatch, "edgecolor": "white", "linewidth": 0}
                axes.barh(place, row["mean"], 0.72, color=style.colour, **edge)
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
    return buffer.getvalue()


def gallery(pictures: Mapping[str, Tensor], rows: Sequence[str]) -> bytes:
    """Draw pictures as a grid with titles.

    Args:
        pictures: Title → pictures (N, 3, H, W) in [0, 1], one per row.
        rows: Labels of the rows, N.
    """
    gap = 1.06
    with _figure(1.6 + 1.1 * len(pictures), 1.8 + 1.1 * len(rows)) as (figure, buffer):
        axes = figure.subplots()
        for column, stack in enumerate(pictures.values()):
            for row, picture in enumerate(stack):
                left, top = column * gap, row * gap
                axes.imshow(_array(picture), extent=(left, left + 1, top + 1, top))
        axes.set(xlim=(0, len(pictures) * gap), ylim=(len(rows) * gap, 0), aspect="equal")
        centres = (np.arange(max(len(pictures), len(rows))) * gap) + 0.5
        axes.set_xticks(
            centres[: len(pictures)],
            [_truncate(title) for title in pictures],
            rotation=40,
            ha="left",
        )
        axes.set_yticks(centres[: len(rows)], [_truncate(text) for text in rows])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.spines[:].set_visible(False)
    return buffer.getvalue()


def png(picture: Tensor) -> bytes:
    """Encode a picture (3, H, W) in [0, 1]."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, _array(picture), format="png")
    return buffer.getvalue()


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """Open a figure of a size in inches, which is written as PNG when the block ends."""
    from matplotlib import rc_context  # takes a second
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    plain: Any = {"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context({**plain, "font.size": 9, "axes.axisbelow": True}):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure, buffer
        figure.savefig(buffer, format="png")


def _array(picture: Tensor) -> Any:
    return picture.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()


def _kinds(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["entry"], table["kind"], strict=True))


def _logarithmic(axes: Any, label: str) -> None:
    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_formatter("{x:g}")  # powers of ten would be drawn as formulas


def _truncate(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _name_rows(axes: Any, kinds: Mapping[str, str]) -> None:
    """Write the entries' names in the colour of their kind, those of self-explanations in bold."""
    axes.set_yticks(range(len(kinds)), [_truncate(entry) for entry in kinds])
    axes.tick_params(axis="y", length=0)
    for label, kind in zip(axes.get_yticklabels(), kinds.values(), strict=True):
        label.set(color=STYLES[kind].colour, weight="bold" if kind == "self" else "normal")


def _label_points(
    axes: Any,
    points: Mapping[str, tuple[float, float]],
    colours: Mapping[str, str],
    kinds: Mapping[str, str],
) -> None:
    """Label points at the right margin, one per line, as close to their height as possible."""
    to_share = axes.transData + axes.transAxes.inverted()
    heights = {entry: to_share.transform(point)[1] for entry, point in points.items()}
    order = sorted(points, key=heights.__getitem__)
    step = 0.98 / max(len(order), 18)
    room = step * np.arange(len(order))
    low = np.maximum.accumulate([heights[e] for e in order] - room) + room if order else room
    shares = np.minimum(low, 1 - room[::-1])
    for entry, share in zip(order, shares, strict=True):
        axes.annotate(
            _truncate(entry),
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
