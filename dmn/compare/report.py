"""The comparison's report: one self-contained HTML file, and the same as Markdown.

Both are rendered from the same values by templates beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.compare import figures
from dmn.compare.statistics import Floats
from dmn.compare.summary import KINDS, LEVEL, OVERALL, arrow, cost, number, place, ranks, summarise
from dmn.evaluate import METRICS
from dmn.io.writing import write_whole
from dmn.viz.panels import data_uri, overlay

REPORT = "report.html"
TILE = 128  # greatest side of a heatmap in the report, in pixels
SPECIAL = {**{sign: f"\\{sign}" for sign in "\\`*_[]|#~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}


@dataclass(frozen=True)
class Gallery:
    """Images and every entry's maps of them, for the report.

    Attributes:
        images: (N, 1 or 3, H, W) in [0, 1].
        rows: A caption for each image, such as "class 7, said 7"; N.
        maps: Signed maps (N, 1, H, W) of each entry, by its name; entries may be missing.
        ids: Numbers of the images in the scores, N, by which their scores are shown.
        against: The same images, with maps of the class against another one, if there are any.

    Examples:
        >>> import torch
        >>> from dmn.compare import Gallery
        >>> images, maps = torch.rand(2, 1, 28, 28), torch.randn(2, 1, 28, 28)
        >>> gallery = Gallery(images, ["class 7, said 7", "class 2, said 2"], {"SplitLRP": maps})
        >>> list(gallery.maps)
        ['SplitLRP']
    """

    images: Tensor
    rows: Sequence[str]
    maps: Mapping[str, Tensor]
    ids: Sequence[int] = ()
    against: Gallery | None = None


def write_report(
    folder: Path,
    *,
    title: str,
    scores: pd.DataFrame,
    cells: pd.DataFrame,
    settings: Mapping[str, Mapping[str, Any]],
    gallery: Gallery,
    benchmarks: Sequence[Gallery] = (),
    curves: Mapping[str, Floats],
    versions: Mapping[str, str],
    config: str,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Write report.html, report.md and figures/*.png.

    Args:
        folder: Created if it does not exist.
        title: Title of the report.
        scores: One row per image, as `summarise` takes them.
        cells: One row for each entry, split and metric, with the times of the maps alone.
        settings: The options chosen for each entry, by its name.
        gallery: Images with the entries' maps.
        benchmarks: The same of each benchmark.
        curves: PixelFlipping's curves of each entry, (N, steps + 1), by its name.
        versions: The version of each package, by its name.
        config: The comparison's configuration as text.
        notes: What a reader should know.
        seed: For the comparison and the bootstrap.

    Returns:
        The path of report.html.
    """
    summary = summarise(scores, cells, seed)
    ranked = ranks(summary)
    order = list(ranked["entry"].unique())
    summary = summary.set_index("entry").loc[order].reset_index()
    seconds = cost(cells)
    shown = _shown(gallery, benchmarks)
    pictures = {key: [_overlays(each, order) for each in group] for key, group in shown.items()}
    drawn = _draw(summary, ranked, seconds, curves)
    drawn |= {key: _gallery_figure(group, pictures[key]) for key, group in shown.items()}
    test = scores[scores["split"] == "test"]
    page = {
        "title": title,
        "counts": {
            kind: int(summary.loc[summary["kind"] == kind, "entry"].nunique()) for kind in KINDS
        },
        "networks": list(summary["network"].unique()),
        "images": int(test["image"].nunique()),
        "seed": seed,
        "level": LEVEL,
        "entries": _entries(summary, ranked, seconds, settings),
        "standings": _standings(ranked),
        "categories": _categories(summary),
        "galleries": {key: _tiles(group, pictures[key], test) for key, group in shown.items()},
        "drawn": set(drawn),
        "versions": versions,
        "config": config,
        "notes": notes,
    }
    for name, data in drawn.items():
        write_whole(folder / "figures" / f"{name}.png", data)
    write_whole(folder / "report.md", _render("report.md.j2", page))
    page["drawn"] = {name: data_uri(data) for name, data in drawn.items()}
    return write_whole(folder / REPORT, _render("report.html.j2", page))


def _shown(gallery: Gallery, benchmarks: Sequence[Gallery]) -> dict[str, list[Gallery]]:
    """Return the galleries that have images, by where the page shows them."""
    rivals = [] if gallery.against is None else [gallery.against]
    galleries = {"gallery": [gallery], "against": rivals, "benchmarks": list(benchmarks)}
    return {key: group for key, group in galleries.items() if any(each.rows for each in group)}


def _render(template: str, page: Mapping[str, Any]) -> str:
    """Render a template, with all text escaped for its language."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def escape(value: Any) -> Any:
        return value if isinstance(value, Markup) else _markdown(str(value))

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("dmn.compare", "."), PackageLoader("dmn.viz", ".")]),
        autoescape=template.endswith(".html.j2"),
        finalize=escape if template.endswith(".md.j2") else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "place": place, "arrow": arrow}
    return environment.get_template(template).render(page)


def _markdown(text: str) -> str:
    """Escape text for Markdown, inside tables too."""
    return " ".join(re.sub(r"[\\`*_\[\]|#~$<>&]", lambda sign: SPECIAL[sign[0]], text).split("\n"))


def _entries(
    summary: pd.DataFrame,
    ranked: pd.DataFrame,
    seconds: Mapping[str, float],
    settings: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Collect what the report says about each entry."""
    overall = ranked[ranked["category"] == OVERALL].set_index("entry")
    return [
        {
            "name": entry,
            "network": rows["network"].iloc[0],
            "method": rows["method"].iloc[0],
            "kind": rows["kind"].iloc[0],
            "settings": settings.get(str(entry), {}),
            "seconds": seconds.get(str(entry), float("nan")),
            "rank": overall["rank"][entry],
            "wins": int(overall["wins"][entry]),
            "metrics": list(rows.itertuples()),
        }
        for entry, rows in summary.groupby("entry", sort=False)
    ]


def _standings(ranked: pd.DataFrame) -> dict[str, Any]:
    """Return the mean ranks as rows, entries by categories."""
    columns = list(ranked["category"].unique())
    rows = [list(group.itertuples()) for _, group in ranked.groupby("entry", sort=False)]
    return {"columns": columns, "rows": rows}


def _categories(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each category's scores as rows, entries by metrics."""
    return [
        {
            "name": name,
            "metrics": {metric: METRICS[metric] for metric in part["metric"].unique()},
            "rows": [list(group.itertuples()) for _, group in part.groupby("entry", sort=False)],
            "images": [
                _image_counts(metric, rows) for metric, rows in part.groupby("metric", sort=False)
            ],
        }
        for name, part in sorted(
            summary.groupby("category", sort=False),
            key=lambda pair: [spec.category for spec in METRICS.values()].index(pair[0]),
        )
    ]


def _image_counts(metric: str, rows: pd.DataFrame) -> str:
    """Return as text how many images a metric scored, and which entries differ from most."""
    groups = rows.groupby(["n", "reasons"], sort=False)["entry"].agg(list)
    groups_as_text = [
        f"{n}{reasons and f' ({reasons})'}{' for ' + ', '.join(entries) if others else ''}"
        for others, ((n, reasons), entries) in enumerate(
            sorted(groups.items(), key=lambda group: -len(group[1]))
        )
    ]
    return f"{metric} n = {'; '.join(groups_as_text)}"


def _draw(
    summary: pd.DataFrame,
    ranked: pd.DataFrame,
    seconds: Mapping[str, float],
    curves: Mapping[str, Floats],
) -> dict[str, bytes]:
    """Draw every figure of the scores that has data."""
    kinds = dict(zip(summary["entry"], summary["kind"], strict=True))
    curves = {entry: curves[entry] for entry in kinds if entry in curves}
    drawn = {"ranks": figures.rank_table(ranked)}
    if curves:
        drawn["curves"] = figures.flipping_curves(curves, kinds)
    if seconds:
        drawn["cost"] = figures.score_against_cost(ranked, seconds)
    for category in summary["category"].unique():
        drawn[category] = figures.bars(summary, category)
    return drawn


def _overlays(gallery: Gallery, order: Sequence[str]) -> dict[str, Tensor]:
    """Overlay the maps on their images, the images first, none larger than a tile."""
    images = gallery.images.detach().float().cpu()
    pictures = {"image": images.expand(-1, 3, -1, -1)}
    pictures |= {e: overlay(images, gallery.maps[e]) for e in order if e in gallery.maps}
    size = [min(side, TILE) for side in images.shape[2:]]
    return {name: F.interpolate(stack, size, mode="area") for name, stack in pictures.items()}


def _gallery_figure(
    galleries: Sequence[Gallery], pictures: Sequence[Mapping[str, Tensor]]
) -> bytes:
    """Draw galleries, which may have images of different sizes, below each other."""
    titles = [title for title in pictures[0] if all(title in each for each in pictures)]
    size = [
        max(sides) for sides in zip(*(each["image"].shape[2:] for each in pictures), strict=True)
    ]
    joined = {
        title: torch.cat([F.interpolate(each[title], size) for each in pictures])
        for title in titles
    }
    return figures.gallery(joined, [row for each in galleries for row in each.rows])


def _tiles(
    galleries: Sequence[Gallery], pictures: Sequence[Mapping[str, Tensor]], test: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the rows of galleries, one after the other."""
    return [
        row
        for gallery, drawn in zip(galleries, pictures, strict=True)
        for row in _gallery_tiles(gallery, drawn, test)
    ]


def _gallery_tiles(
    gallery: Gallery, pictures: Mapping[str, Tensor], test: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the gallery's rows: an image and each entry's heatmap with its scores or fault."""
    scores = {
        key: [f"{row.metric} {number(row.value)} {row.reason}".strip() for row in rows.itertuples()]
        for key, rows in test[test["image"].isin(list(gallery.ids))].groupby(["entry", "image"])
    }
    ids = list(gallery.ids) or [-1] * len(gallery.rows)
    return [
        {
            "text": text,
            "image": data_uri(figures.png(pictures["image"][row])),
            "maps": {
                entry: {
                    "picture": data_uri(figures.png(pictures[entry][row])),
                    "fault": _map_fault(values[row]),
                    "scores": scores.get((entry, image_id), []),
                }
                for entry, values in gallery.maps.items()
                if entry in pictures
            },
        }
        for row, (text, image_id) in enumerate(zip(gallery.rows, ids, strict=True))
    ]


def _map_fault(values: Tensor) -> str:
    """Return why a map shows nothing; empty if it shows something."""
    if not torch.isfinite(values).all():
        return "map is not finite"
    return "map is constant" if values.amax() == values.amin() else ""
