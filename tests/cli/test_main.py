"""`dmn` itself: its commands, its help, and that neither takes long."""

import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dmn.cli.commands import COMMANDS
from dmn.cli.help_texts import FOLDER, shipped_help
from dmn.cli.main import main

ROOT = Path(__file__).parents[2]
MAKERS = ("jsonargparse", "pytorch-lightning", "torch")  # which write parts of the help
HEAVY = ("torch", "pytorch_lightning", "wandb", "quantus", "pandas", "numpy")


def shown(*args, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help_lists_every_command_with_a_line(args, capsys):
    listed = shown(*args, capsys=capsys)
    for name, command in COMMANDS.items():
        assert re.search(rf"^    {name} +{re.escape(command.summary)}$", listed, re.M)


def test_the_version_is_named(capsys):
    assert shown("--version", capsys=capsys) == f"dmn {version('dmn')}\n"


@pytest.mark.parametrize("args", [["fitt"], ["fitt", "--help"], ["", "fit"]])
def test_an_unknown_command_is_told_which_there_are(args):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    names = "fit, finetune, validate, test, convert, explain, show, view, export, certify, compare"
    assert stopped.value.code == f"dmn: no command {args[0]!r}; there are {names}"


@pytest.mark.parametrize("option", ["--config", "--nope", "--"])
def test_an_option_before_the_command_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([option, "fit"])
    assert stopped.value.code == 2
    assert f"error: unrecognized arguments: {option}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_and_version_import_nothing_that_takes_long(args):
    script = (
        "import sys\n"
        "from dmn.cli.__main__ import main\n"
        "sys.argv[0] = 'dmn'\n"
        "try: main()\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        f"assert not {{*{HEAVY!r}}} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script, *args], check=True, capture_output=True)


def test_python_runs_the_package_too():
    command = [sys.executable, "-m", "dmn.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"dmn {version('dmn')}\n")


def made_by_the_constraints():
    named = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / ".ci/constraints.txt").read_text(), re.M))
    return all(version(name).partition("+")[0] == named[name] for name in MAKERS)


@pytest.mark.skipif(
    not made_by_the_constraints() or sys.version_info >= (3, 13),
    reason="the help of other versions of Lightning, jsonargparse and argparse reads otherwise",
)
def test_the_help_that_is_shipped_is_what_the_parsers_write(tmp_path):
    """`make help-texts` writes it anew."""
    environment = {**os.environ, "COLUMNS": "80"}  # of no effect
    command = [sys.executable, "-m", "dmn.cli.help_texts", str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.txt" for name in COMMANDS}
    for name in COMMANDS:
        assert shipped_help([name, "--help"]) == (tmp_path / f"{name}.txt").read_text("utf-8"), name


@pytest.mark.parametrize(
    "args", [[], ["fit"], ["--help"], ["nope", "--help"], ["fit", "-h", "-h"], ["../fit", "-h"]]
)
def test_only_plain_questions_get_the_help_that_is_shipped(args):
    assert shipped_help(args) == ""
    assert shipped_help(["fit", "-h"]) == shipped_help(["fit", "--help"]) != ""


def test_help_behind_other_options_is_made_by_the_parser(capsys):
    listed = shown("convert", "resnet18", "--help", capsys=capsys)
    assert listed.startswith("usage: dmn convert NAME")


def test_the_recipe_names_what_it_measures(monkeypatch, capsys):
    recipe = runpy.run_path(str(ROOT / "recipes/startup.py"))["main"]
    monkeypatch.setitem(recipe.__globals__, "seconds", lambda command, runs: runs / 4)
    recipe(["--runs", "3"])
    rows = dict(re.findall(r"│ (.+?) +│ ([\d.]+) ", capsys.readouterr().out))
    assert rows.pop("import dmn adds") == "0.00"
    assert rows.keys() >= {"import torch", "dmn --version", "dmn --help", "dmn compare --help"}
    assert set(rows.values()) == {"0.75"}
