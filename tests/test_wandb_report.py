"""The report in Weights & Biases: what it would show of real runs, and what it asks for."""

import re
import runpy
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from dmn.cli.main import main
from dmn.io.yaml import read_yaml

RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "recipes/wandb_report.py"))
COMPARED = "entry,metric,mean\nGradCAM (twin),Sparseness,0.5\nRandom (twin),PointingGame,\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a training, whose run is offline, and of a comparison."""
    folder = tmp_path_factory.mktemp("runs")
    quick = ["--quantus.metrics", "[Sparseness]", "--quantus.images", "1", "--heatmaps.images", "1"]
    with chdir(folder):
        main(["fit", "--config", "debug", "--rank.every_n_epochs", "1", *quick])
    compared = folder / "runs/compare/c"
    (compared / "figures").mkdir(parents=True)
    (compared / "summary.csv").write_text(COMPARED)
    (compared / "figures/ranks.png").touch()
    return [str(folder / "runs/debug/version_0"), str(compared)]


def sections(capsys, *args):
    """Return the panels that a dry run prints, by section."""
    capsys.readouterr()
    RECIPE["main"]([*args, "--dry-run"])
    told = read_yaml(capsys.readouterr().out.encode())
    return {each["name"]: each["panels"] for each in told["sections"]}


def test_one_panel_overlays_all_explanations_of_a_metric(runs, capsys):
    shown = sections(capsys, *runs)
    (bars,) = shown["Explanations: last scores"]
    controls = ["Centre", "Edges", "Random"]
    own = ["splitcam", "splitgrad", "splitlrp"]
    entries = [key.removeprefix("quantus/Sparseness/") for key in bars["bars"]]
    assert entries == [*controls, *own, "GradCAM (twin)"]  # what has no score has no bar
    (lines,) = shown["Explanations: scores by epoch"]
    assert lines["title"] == bars["title"] == "Sparseness ↑"
    assert all(re.match(lines["regex"], key) for key in bars["bars"])
    assert not re.match(lines["regex"], "quantus/unscored")


def test_each_expression_finds_what_the_offline_run_has_logged(runs, capsys):
    header = (Path(runs[0]) / "metrics.csv").read_text().splitlines()[0].split(",")
    shown = sections(capsys, runs[0])
    assert [each["title"] for each in shown["Training"]] == [
        *("loss", "accuracy", "constraint", "effective rank by layer")
    ]
    for panel in [*shown["Training"], *shown["Explanations: scores by epoch"]]:
        assert any(re.match(panel["regex"], key) for key in header), panel
    keys = [each["pictures"][0] for each in shown["Pictures"]]
    assert keys == ["heatmap/splitcam", "heatmap/splitgrad", "heatmap/splitlrp"]
    (offline,) = Path(runs[0]).glob("wandb/offline-run-*")
    for key in keys:
        assert list(offline.glob(f"files/media/images/{key}_*.png")), key


def test_what_is_lacking_is_told_in_one_line(runs, tmp_path, monkeypatch):
    for args, told in {
        (*runs, "--entity", "me"): "pip install wandb-workspaces; --dry-run needs no package",
        tuple(runs): "--entity is missing",
        (str(tmp_path),): "has neither metrics.csv nor summary.csv",
    }.items():
        monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
        with pytest.raises(SystemExit, match=told):
            RECIPE["main"](list(args))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the package itself
def test_workspace_and_report_can_be_made_offline(runs):
    """Only saving needs an account."""
    keys = [key for run in runs for key in RECIPE["keys"](Path(run))]
    specification = RECIPE["specification"]("title", "dmn", keys)
    workspace = RECIPE["workspace"](specification, "me")._to_model().model_dump_json(by_alias=True)
    assert '"metricRegex":"^quantus/Sparseness/.+"' in workspace
    assert len(RECIPE["report"](specification, "me").blocks) == 2 * len(specification["sections"])
