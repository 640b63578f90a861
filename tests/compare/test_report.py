"""The report in a real browser: it sorts, filters, tells, and asks nothing of the network."""

import re
from dataclasses import replace

import pytest
import torch
from browser import launched, visits
from fabricated import ENTRIES, FAILED, fabricate

from dmn.compare.report import write_report
from dmn.evaluate import METRICS

HOSTILE = "<script>document.title='owned'</script>\"'{{7*7}}|*`&ü漢🦜\u202e"
FEW = ("PixelFlipping", "Sparseness")
PHONE = {"width": 390, "height": 844}


def write(folder, made, title="Scenes", **changed):
    values = {
        "title": title,
        "scores": made.scores,
        "cells": made.cells,
        "settings": made.settings,
        "gallery": made.gallery,
        "curves": made.curves,
        "versions": {"dmn": "0.1.0", "torch": "2.14.1"},
        "config": "seed: 3\ndata:\n  size: 64\n",
        "notes": ["Chosen on validation images."],
        "seed": 3,
    }
    return write_report(folder, **{**values, **changed})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    made = fabricate()
    maps = dict(made.gallery.maps)
    del maps["resnet18 centre map"]
    maps["resnet18 random map"] = torch.zeros(4, 1, 32, 32)
    gallery = replace(made.gallery, maps=maps)
    return write(tmp_path_factory.mktemp("report"), made, gallery=gallery)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Two entries, one of a name that means mischief in HTML, Jinja, Markdown and matplotlib."""
    names = {("net", HOSTILE, "self"): 0.8, ("net", "plain", "post-hoc"): 0.5}
    made = fabricate(names, FEW)
    rows = [HOSTILE] * 4
    return write(
        tmp_path_factory.mktemp("hostile"),
        made,
        title=HOSTILE,
        gallery=replace(made.gallery, rows=rows),
        settings={f"net {HOSTILE}": {HOSTILE: HOSTILE}},
        config=HOSTILE,
        notes=[HOSTILE],
    )


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture
def visit(browser):
    with visits(browser) as visit:
        yield visit


def names(table):
    return [text.strip() for text in table.locator("tbody th:visible").all_inner_texts()]


def test_it_says_what_was_compared(report, visit):
    page = visit(report)
    header = page.locator("header").inner_text()
    for text in ("Scenes", "20 test images", "8 entries", "3 networks", "seed 3", "validation"):
        assert text in header
    for category in dict.fromkeys(spec.category for spec in METRICS.values()):
        assert page.get_by_role("heading", name=category.capitalize()).is_visible()
    assert page.locator("figure img").count() == 3 + len({s.category for s in METRICS.values()})
    assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")


def test_one_cell_of_each_metric_is_best_and_none_is_empty(report, visit):
    page = visit(report)
    assert page.locator("td.best").count() == len(METRICS)
    cells = page.locator("main td:has(button[data-metric])").all_inner_texts()
    assert len(cells) == len(ENTRIES) * len(METRICS)
    assert all(cell.strip() for cell in cells)
    assert sum(FAILED in cell for cell in cells) == 1
    assert "3 dropped" in " ".join(cells)


def test_headers_sort_by_mouse_and_keyboard(report, visit):
    page = visit(report)
    table = page.locator("table.sortable").nth(1)
    header = table.locator("thead th").nth(1)
    for key, direction in (("click", "ascending"), ("Enter", "descending"), (" ", "ascending")):
        button = header.locator("button")
        button.click() if key == "click" else button.press(key)
        assert header.get_attribute("aria-sort") == direction
        cells = table.locator("tbody td:nth-child(2)")
        values = cells.evaluate_all("cells => cells.map((cell) => +cell.dataset.value)")
        assert values == sorted(values, reverse=direction == "descending")
    table.locator("thead th").nth(0).locator("button").click()
    assert header.get_attribute("aria-sort") is None
    assert names(table) == sorted(names(table), key=str.lower)


def test_what_has_no_score_is_sorted_last_both_ways(report, visit):
    page = visit(report)
    header = page.locator("th", has_text="RandomLogit")
    for _ in range(2):
        header.locator("button").click()
        rows = page.locator("table", has=header).locator("tbody tr")
        assert FAILED in rows.last.inner_text()


def test_the_first_click_puts_the_best_on_top(report, visit):
    page = visit(report)
    for metric, direction in (("Sparseness", "descending"), ("Complexity", "ascending")):
        header = page.locator("th.number", has_text=re.compile(f"^{metric}"))
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == direction


def test_filters_hide_rows_and_columns(report, visit):
    page = visit(report)
    tables = page.locator("table.sortable")
    page.get_by_role("searchbox").fill("SPLITcam resnet18")
    assert names(tables.first) == ["resnet18 SplitCAM"]
    assert page.locator("table.gallery thead th:visible").count() == 2
    assert "1 of 8" in page.get_by_role("status").inner_text()
    page.get_by_role("searchbox").fill("")
    page.get_by_role("checkbox", name="post-hoc").uncheck()
    page.get_by_role("checkbox", name="controls").uncheck()
    for table in tables.all():
        assert sorted(names(table)) == ["dmn-resnet SplitCAM", "dmn-resnet SplitLRP"]
    assert page.locator("table.gallery tbody tr").first.locator("td:visible").count() == 2
    page.get_by_role("checkbox", name="self").uncheck()
    assert "nothing" in page.get_by_role("status").inner_text()


def test_a_click_tells_settings_and_scores(report, visit):
    page = visit(report)
    dialog = page.get_by_role("dialog")
    assert dialog.count() == 0
    page.locator("button[data-metric=Sparseness]").nth(2).click()
    text = dialog.inner_text()
    for part in ("resnet18 SplitCAM", "layer2", "0.4", "3x map is constant", *METRICS):
        assert part in text
    assert "Sparseness" in dialog.locator("tr.chosen").inner_text()
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    page.locator("table.gallery td button").nth(1).press("Enter")
    assert "SplitLRP" in dialog.locator("h2").inner_text()
    dialog.get_by_role("button", name="Close").click()
    assert dialog.count() == 0


def test_hovering_tells_scores(report, visit):
    page = visit(report)
    title = page.locator("button[data-metric=PixelFlipping]").nth(2).get_attribute("title")
    assert re.search(r"95 % interval .* n = 17, 3 dropped \(3x map is constant\)", title)
    assert "against dmn-resnet SplitCAM" in title
    title = page.locator("table.gallery td button").first.get_attribute("title")
    assert all(metric in title for metric in METRICS)


def test_maps_that_show_nothing_say_why(report, visit):
    page = visit(report)
    row = page.locator("table.gallery tbody tr").first
    assert "class 0, said 0" in row.inner_text()
    assert "map is constant" in row.locator("td").nth(6).inner_text()
    assert row.locator("td").nth(7).inner_text() == "no map"


def test_maps_against_another_class_open_by_a_click(report, visit):
    page = visit(report)
    plain, rivals = page.locator("table.gallery").all()
    assert not rivals.is_visible()
    page.get_by_text("Why this class, not the likeliest other?").click()
    assert "why 2, not 9?" in rivals.locator("tbody tr").nth(2).inner_text()
    first = [table.locator("td img").first.get_attribute("src") for table in (plain, rivals)]
    assert first[0] != first[1]
    page.get_by_role("searchbox").fill("vgg16")
    assert rivals.locator("thead th:visible").count() == 2
    assert "map" not in rivals.locator("td:visible").first.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_and_not_the_page(report, visit, scheme):
    page = visit(report, viewport=PHONE, color_scheme=scheme)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= PHONE["width"]
    page.locator("button[data-metric]").first.click()
    assert page.evaluate(width) <= PHONE["width"]
    box = page.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    ground, text = page.evaluate(
        "['backgroundColor', 'color'].map((key) => getComputedStyle(document.body)[key])"
    )
    dark, light = sorted((ground, text), key=lambda c: sum(map(int, re.findall(r"\d+", c))))
    assert (ground, text) == ((light, dark) if scheme == "light" else (dark, light))


@pytest.mark.torture(
    "a report of names with HTML, quotes, templates, Markdown, other scripts", "they are only text"
)
def test_hostile_names_are_only_text(hostile, visit):
    page = visit(hostile)
    assert page.title() == HOSTILE
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator("script").count() == 1
    page.locator("tbody th button.self").first.click()
    assert f"net {HOSTILE}" in page.locator("dialog h2").inner_text()
    assert HOSTILE in page.locator("dialog dl").inner_text()


def test_the_policy_forbids_the_network(report, visit):
    page = visit(report)
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert not re.search(r"(src|href)=\"(?!data:)", report.read_text())


def test_markdown_holds_the_same(report, hostile):
    text = (report.parent / "report.md").read_text()
    for entry in (f"{network} {method}" for network, method, _ in ENTRIES):
        assert entry in text
    for metric, spec in METRICS.items():
        assert f"{metric} {'↑' if spec.higher_is_better else '↓'}" in text
    assert text.count(" **") == len(METRICS)
    assert "&lt;b&gt;no&lt;/b&gt; mosaic fits \\| the network" in text
    assert "Sparseness n = 20; 17 (3x map is constant) for resnet18 SplitCAM" in text
    linked = set(re.findall(r"\]\((figures/.*?)\)", text))
    assert linked == {f"figures/{path.name}" for path in (report.parent / "figures").iterdir()}
    assert "    seed: 3\n" in text
    mischief = hostile.with_suffix(".md").read_text()
    assert "<script>" not in re.sub("^    .*$", "", mischief, flags=re.M)


def test_markdown_tables_are_rectangular(report, hostile):
    for path, metrics in ((report, METRICS), (hostile, FEW)):
        text = path.with_suffix(".md").read_text()
        blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
        assert len(blocks) == 3 + len({METRICS[metric].category for metric in metrics})
        for block in blocks:
            bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(bars) == 1


def test_little_is_enough(tmp_path, visit):
    """One entry, no curves, no times, no images to show."""
    made = fabricate({("net", "alone", "post-hoc"): 0.5}, FEW)
    none = replace(
        made.gallery, images=torch.zeros(0, 3, 8, 8), rows=[], maps={}, ids=(), against=None
    )
    cells = made.cells[made.cells["metric"] != "Explanation"]
    page = visit(write(tmp_path, made, gallery=none, curves={}, cells=cells))
    assert page.get_by_text("Heatmaps").count() == 0
    assert page.locator("td.best").count() == len(FEW)
