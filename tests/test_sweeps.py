"""Sweeps: every file's runs parse, the local runner fills its table, and overrides override."""

import csv
import json
import os
import re
import runpy
from itertools import product
from pathlib import Path

import pytest
import yaml

from dmn.cli.main import main
from dmn.io.resources import CONFIGS

RECIPES = Path(__file__).parents[1] / "recipes"
SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))
TINY = """
command: ["${env}", dmn, fit, --config, debug, "${args}"]
parameters:
  config: {values: [ablation/base, ablation/smoothing]}
  seed_everything: {value: 3}
  trainer.limit_train_batches: {value: 1}
  quantus.every_n_epochs: {value: 0}
  heatmaps.every_n_epochs: {value: 0}
"""


def recipe(name):
    return runpy.run_path(str(RECIPES / f"{name}.py"))["main"]


def runs():
    """List each sweep's runs, but for seeds and folds, of which the first stands for all."""
    for path in SWEEPS:
        sweep = yaml.safe_load(path.read_text())
        given = [each for each in sweep["command"][2:] if each != "${args}"]
        grid = {
            key: told.get("values") or [told["value"]] for key, told in sweep["parameters"].items()
        }
        grid |= {
            key: grid[key][:1] for key in ("seed_everything", "data.init_args.fold") if key in grid
        }
        first, *others = product(*grid.values())
        for values in (first, *others):
            args = [f"--{key}={value}" for key, value in zip(grid, values, strict=True)]
            yield pytest.param(
                [*given, *args],
                id=f"{path.stem} {grid['config'][0] and values}",
                marks=() if values is first else pytest.mark.slow,
            )


def table():
    return list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))


@pytest.mark.parametrize("args", list(runs()))
def test_the_runs_of_sweeps_parse(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--print_config"])
    assert stopped.value.code == 0


def test_every_ablation_is_swept_and_says_what_it_changes():
    swept = " ".join(path.read_text() for path in SWEEPS)
    for path in (CONFIGS / "ablation").glob("*.yaml"):
        assert f"ablation/{path.stem}" in swept, path.stem
        assert re.match(r"# .+\.\n", path.read_text()), path.stem


def test_an_override_changes_what_it_names_only(capsys):
    printed = []
    for args in (["ablation/base"], ["ablation/kernel7"]):
        with pytest.raises(SystemExit):
            main(["fit", "--config", "mnist", "--config", *args, "--print_config"])
        net = yaml.safe_load(capsys.readouterr().out)["model"]["net"]["init_args"]
        printed.append({"margin": net["margin"], **net["g"]["init_args"]})
    changed = {key for key, value in printed[0].items() if printed[1][key] != value}
    assert changed == {"margin", "kernel"}


def swept(tmp_path, monkeypatch, parameters, dmn):
    """Run a sweep whose command is replaced by a function; return its exit code."""
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(yaml.safe_dump({"command": ["dmn", "fit"], "parameters": parameters}))
    main = recipe("sweep")
    monkeypatch.setitem(main.__globals__, "dmn", dmn)
    try:
        main(["a.yaml", "--table", "out/table.csv", "--workers", "1"])
    except SystemExit as stopped:
        return str(stopped.code)
    return ""


def trained(*args):
    """Leave what a training does, in a folder of the name that it is given."""
    root, name = (args[args.index(f"--run.{key}") + 1] for key in ("root", "name"))
    folder = Path(root, name, "version_0")
    folder.mkdir(parents=True)
    rows = folder / "metrics.csv"
    rows.write_text("val/acc\n0.5\n")
    summary = {"metrics_file": str(rows), "checkpoints": "", "seconds": {"total": 3.2}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return True


RATES = [0.01, 0.02, "1e-3", "=1+1", "-2", "größer"]


def test_runs_are_labelled_by_the_whole_text_of_their_values(tmp_path, monkeypatch, capsys):
    parameters = {"lr": {"values": RATES}, "fold": {"value": 0}}
    assert swept(tmp_path, monkeypatch, parameters, trained) == ""
    folders = {path.name for path in Path("runs/sweeps/a").iterdir()}
    assert folders == set(map(str, RATES))
    rates = [row["lr"] for row in table()]
    assert rates == ["0.01", "0.02", "1e-3", "'=1+1", "-2", "größer"]
    assert swept(tmp_path, monkeypatch, parameters, None) == ""  # there is nothing left to run
    assert capsys.readouterr().out.split()[0] == "0.01"


@pytest.mark.torture("a sweep some of whose runs fail", "they are counted and named; exit code 1")
@pytest.mark.parametrize("failing", [{"0.02"}, {"0.01", "0.02"}])
def test_runs_that_fail_are_told(failing, tmp_path, monkeypatch, happened):
    def dmn(*args):
        return False if any(f"--lr={value}" in args for value in failing) else trained(*args)

    told = swept(tmp_path, monkeypatch, {"lr": {"values": [0.01, 0.02]}}, dmn)
    assert told.startswith(f"{len(failing)} of 2 runs failed")
    assert all(value in told for value in failing)
    assert {row["lr"] for row in table()} == {"0.01", "0.02"} - failing
    happened(told)


def test_a_sweep_that_is_no_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("a.yaml")
    with pytest.raises(SystemExit, match=r"a\.yaml: .*no regular file"):
        recipe("sweep")(["a.yaml", "--table", "t.csv"])


@pytest.mark.slow  # the tests above replace the trainings, whose options parse
def test_a_sweep_is_run_once_and_gone_on_with(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    args = ["tiny.yaml", "--table", "out/table.csv", "--root", "runs", "--test"]
    recipe("sweep")(args)
    rows = table()
    assert {row["config"] for row in rows} == {"ablation/base", "ablation/smoothing"}
    for row in rows:
        assert row["seed_everything"] == "3"
        assert all(
            0 <= float(row[name]) <= 1 for name in ("val_acc_last", "val_acc_best", "test_acc")
        )
    capfd.readouterr()
    recipe("sweep")(args)
    assert capfd.readouterr().out == ""
    assert table() == rows
