"""The comparison in one table: mean, interval, rank and paired test of every entry and metric.

Controls (random, edge and centre maps) are scored and shown, but do not compete: some metrics are
won by maps without information, MaxSensitivity by a constant map. They get the rank that they would
have, which changes no other rank, and are never best nor a rival.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from dmn.compare.statistics import best_rivals, holm, interval, paired_p, places
from dmn.evaluate import METRICS, MetricSpec, metric_specs

EXPLANATION = "Explanation"  # metric of the rows of `cells` that time the maps alone
KINDS = ("self", "post-hoc", "control")
LEVEL = 0.05  # of significance, after Holm's correction
OVERALL = "overall"
UNSCORED = "not scored"


def summarise(scores: pd.DataFrame, cells: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Condense the test scores to one row for each entry and metric.

    Args:
        scores: One row per image: entry, split, metric, image, value.
        cells: One row for each entry, split and metric: network, method, kind, n, dropped, reasons.
        seed: For the bootstrap.

    Returns:
        One row for each entry and metric, metrics in the order of `METRICS`, with the columns
        entry, network, method, kind, category, metric; the mean and its 95 % interval low, high; n,
        dropped, reasons; rank (by the mean), best; rival (the best other entry that is not a
        control); p of the paired test against it, corrected by Holm over the table; and
        significant.

    Raises:
        UnknownNameError: if a metric does not exist; lists those that do.
    """
    scores, cells = (frame[frame["split"] == "test"] for frame in (scores, cells))
    entries = cells.drop_duplicates("entry").set_index("entry")[["network", "method", "kind"]]
    cells = cells[cells["metric"] != EXPLANATION].set_index(["metric", "entry"])
    named = metric_specs(cells.index.unique("metric"))
    blocks = [
        _one_metric(name, named[name], entries, _by_entry(scores, name), cells, seed)
        for name in METRICS
        if name in named
    ]
    summary = pd.concat(blocks, ignore_index=True)
    summary["p"] = holm(summary["p"])
    summary["significant"] = summary["p"] < LEVEL
    return summary


def ranks(summary: pd.DataFrame) -> pd.DataFrame:
    """Average the ranks of every entry over the metrics of each category.

    Args:
        summary: Returned by `summarise`.

    Returns:
        One row for each entry and category, sorted by kind and then by overall rank, with the
        columns entry, kind, category, rank (the mean) and wins (metrics in which the entry is
        best). The category "overall" has the mean of the categories' ranks, equally weighted, and
        all wins.
    """
    keys = ["entry", "kind", "category"]
    table = summary.groupby(keys, sort=False).agg(rank=("rank", "mean"), wins=("best", "sum"))
    total = table.groupby(keys[:2], sort=False).agg(rank=("rank", "mean"), wins=("wins", "sum"))
    table = pd.concat([table.reset_index(), total.reset_index().assign(category=OVERALL)])
    order = sorted(
        total.reset_index().itertuples(),
        key=lambda row: (KINDS.index(row.kind), math.isnan(row.rank), row.rank),
    )
    position = {row.entry: place for place, row in enumerate(order)}
    return table.sort_values("entry", key=lambda names: names.map(position), kind="stable")


def cost(cells: pd.DataFrame) -> dict[str, float]:
    """Return the seconds per map of each entry.

    Args:
        cells: With the rows of the metric "Explanation": the time of n maps.
    """
    timed = cells[(cells["metric"] == EXPLANATION) & (cells["split"] == "test") & (cells["n"] > 0)]
    return {row.entry: row.seconds / row.n for row in timed.itertuples()}


def arrow(metric: str) -> str:
    """Show which way is better."""
    return "↑" if METRICS[metric].higher_is_better else "↓"


def number(value: float) -> str:
    """Format a score with four significant digits, at most three of them decimals."""
    if not math.isfinite(value):
        return "—"
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.1e}"
    return f"{value:.{4 - len(str(int(abs(value))))}f}"


def place(value: float) -> str:
    """Format a rank, or a mean rank."""
    return f"{value:.3g}" if math.isfinite(value) else "—"


def _by_entry(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric's scores as a table of images by entries, so that they are paired."""
    rows = scores[scores["metric"] == metric]
    return rows.pivot(index="image", columns="entry", values="value")


def _one_metric(
    name: str,
    spec: MetricSpec,
    entries: pd.DataFrame,
    values: pd.DataFrame,
    cells: pd.DataFrame,
    seed: int,
) -> pd.DataFrame:
    """Return the rows of one metric, with p-values not yet corrected."""
    values = values.reindex(columns=entries.index).astype(float)
    table = entries.reset_index().assign(category=spec.category, metric=name)
    table["mean"] = values.mean().to_numpy()
    table["low"], table["high"] = zip(
        *(interval(values[entry], seed=seed) for entry in table["entry"]), strict=True
    )
    counts: Any = cells.loc[name].reindex(table["entry"])
    table["n"] = values.notna().sum().to_numpy()
    table["dropped"] = counts["dropped"].fillna(0).astype(int).to_numpy()
    reasons = counts["reasons"].fillna("").to_numpy()
    table["reasons"] = np.where((table["n"] == 0) & (reasons == ""), UNSCORED, reasons)
    goodness = table["mean"].to_numpy() * (1 if spec.higher_is_better else -1)
    competing = (table["kind"] != "control").to_numpy()
    table["rank"] = places(goodness, competing)
    eligible = competing & np.isfinite(goodness)
    table["best"] = eligible & (goodness == goodness[eligible].max(initial=-np.inf))
    rivals = best_rivals(goodness, competing)
    table["rival"] = ["" if rival is None else table["entry"][rival] for rival in rivals]
    table["p"] = [
        math.nan if rival is None else paired_p(values.iloc[:, entry], values.iloc[:, rival])
        for entry, rival in enumerate(rivals)
    ]
    return table
