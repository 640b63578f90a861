"""The page of methods shows every one that is registered, with its scores in the reports."""

import re
from pathlib import Path

import pytest

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.explain import list_methods

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "methods.md").read_text(encoding="utf-8")
NAMES = [spec.name for spec in list_methods()]
FOR_TRANSFORMERS = {"AttentionRollout", "GradientAttentionRollout", "AttnLRP"}
SHARED = set(NAMES) - FOR_TRANSFORMERS
METRICS = ("FaithfulnessCorrelation", "RelevanceRankAccuracy", "RandomLogit", "MaxSensitivity")


def rows(text):
    """Yield the cells of each row of a page's tables, without emphasis."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip(" *") for cell in line.replace("\\*", "").split("|")[1:-1]]


def reported(report):
    """Return the means of a report, by entry and metric."""
    scores, header = {}, []
    for row in rows((DOCS / "research" / "results" / report).read_text(encoding="utf-8")):
        if row[0] == "entry":
            header = [name.split(" ")[0] for name in row]
        for metric, cell in zip(header, row, strict=False):
            scores[row[0], metric] = cell.replace("*", "").split(" ")[0]
    return scores


def test_every_method_has_one_row_with_its_picture_and_one_with_its_scores():
    shown = re.findall(r"^\| !\[.*?\]\(pictures/methods/(\w+)\.png\) \| \*\*(.+?)\*\*", PAGE, re.M)
    assert sorted(name for _, name in shown) == sorted(NAMES)
    assert all(picture == name.replace("+", "p") for picture, name in shown)
    scored = [row[0] for row in rows(PAGE) if len(row) == 6][2:]  # after header and rule
    assert sorted(scored) == sorted(NAMES)


@pytest.mark.parametrize(
    ("report", "network", "place"),
    [("scenes.md", "ResNet", 0), ("scenes_vgg16.md", "VGG", 1)],
)
def test_scores_are_those_of_the_reports(report, network, place):
    scores = reported(report)
    for name, *cells in (row for row in rows(PAGE) if len(row) == 6 and row[0] in SHARED):
        entry = f"{name} as it comes" if name == "SplitLRP" else name
        for metric, cell in zip(METRICS, cells, strict=False):
            assert cell.split(", ")[place] == scores[f"{entry} ({network})", metric], name


def test_scores_of_methods_for_transformers_are_those_of_the_vit():
    scores = reported("scenes_modern.md")
    found = [row for row in rows(PAGE) if len(row) == 6 and row[0] in FOR_TRANSFORMERS]
    assert len(found) == len(FOR_TRANSFORMERS)
    for name, *cells in found:
        for metric, cell in zip(METRICS, cells, strict=False):
            assert cell == scores[f"{name} (ViT)", metric], name
