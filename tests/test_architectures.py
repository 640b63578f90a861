"""The recipe that fills docs/architectures.md, and the tables that it has filled."""

import re
import runpy
from pathlib import Path

import pytest
from torchvision import models

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architectures.md"
RECIPE = runpy.run_path(str(ROOT / "recipes/architectures.py"))


def rows(page, name):
    """Return the rows of a table by their first cell."""
    (table,) = re.findall(rf"<!-- table: {name} -->\n\n(.*?)\n\n<!-- end -->", page, re.S)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {first: others for first, *others in lines[2:]}


def test_the_page_has_every_classifier_of_torchvision():
    page = PAGE.read_text(encoding="utf-8")
    split, held = rows(page, "split"), rows(page, "held")
    assert {*split, *held} == {*RECIPE["FAMILIES"]}
    assert not {*split} & {*held}
    totals = {family: int(row[0].split()[-1]) for family, row in (split | held).items()}
    for family, total in totals.items():
        assert total == len(RECIPE["members"](family)), family
    assert sum(totals.values()) == len(models.list_models(module=models))
    assert [*rows(page, "maps")] == [*RECIPE["FAMILIES"]]
    assert {row[1] for row in (split | held).values()} == {"equal"}


def test_a_network_that_is_split_everywhere():
    measured = RECIPE["measure"]("squeezenet1_1")
    assert measured.held == ()
    assert measured.gradient_cosine == 1
    assert measured.prediction == measured.least_weight == 0
    assert measured.claimed == "monotone and convex"
    assert all(0 <= cosine <= 1.001 for cosine in measured.of_g_and_h + measured.of_classes)
    row = RECIPE["split_row"]("squeezenet", [measured])
    assert row[:4] == ["squeezenet", "1 of 2", "equal", "0"]


def test_a_family_that_is_split_at_each_image(tmp_path):
    page = tmp_path / "page.md"
    old = "| family | networks |\n| --- | --- |\n| vgg | of before |"
    names = ("split", "held", "maps", "methods")
    page.write_text(
        "\n\n".join(f"<!-- table: {name} -->\n\n{old}\n\n<!-- end -->" for name in names)
    )
    network = ["--families", "mobilenet_v3", "--smallest", "1", "--tried", "mobilenet_v3_small"]
    RECIPE["main"]([*network, "--page", str(page)])
    written = page.read_text(encoding="utf-8")
    assert rows(written, "split") == {"vgg": ["of before"]}
    held = rows(written, "held")
    assert held["vgg"] == ["of before"]
    assert held["mobilenet_v3"][:3] == ["1 of 2", "equal", "`SqueezeExcitation`"]
    assert [*rows(written, "maps")] == ["mobilenet_v3", "vgg"]
    methods = rows(written, "methods")
    assert "vgg" not in methods
    for name in ("SplitLRP", "SplitCAM", "AttnLRP", "GradCAM", "IntegratedGradients", "Occlusion"):
        assert methods[name] == ["yes"], name
    for name in ("AttentionRollout", "LRPEpsilonPlus"):
        assert methods[name] == ["refused"], name


def test_logits_are_not_zero():
    """Those of torchvision's ViTs start at 0, so that all maps would be."""
    x = RECIPE["noise"]("vit_b_32")
    assert RECIPE["build"]("vit_b_32")(x).abs().max() > 0


def test_a_page_without_a_place_for_the_tables_is_left_alone():
    with pytest.raises(SystemExit, match="no comments for the table split"):
        RECIPE["written"]("# A page\n", {"split": "| family |"})
