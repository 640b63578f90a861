"""From photos of one's own to a run, and from its folder to every other command."""

import shlex
from pathlib import Path

import effort
import pytest
import yaml
from photos import NAMES, SHORT, make_photos

import dmn
from dmn.cli.main import main

ODD = ("1e3", "null", "- x: {y}", "#犬", "on", "1.5e3", "0x1f", "2020-01-01")
SAVED = "runs/own/version_0/config.yaml"
BEST = "runs/own/version_0/checkpoints/best.ckpt"


def run(line):
    main([*shlex.split(line), *SHORT])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with photos, and a run that was fine-tuned to them from a shipped network."""
    folder = tmp_path_factory.mktemp("own")
    make_photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("finetune --config folder --init_from scenes_front --data.root photos --run.name own")
    return folder


@pytest.fixture
def folder(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_the_run_keeps_the_names_of_the_folders(folder, capsys):
    assert dmn.load("runs/own/version_0").classes == tuple(sorted(NAMES))
    photo = next(Path("photos", "犬").iterdir())
    for options in ("", "--target 犬", "--target Γάτα"):
        main(["explain", str(photo), "--model", "runs/own/version_0", *shlex.split(options)])
        (line, *_) = capsys.readouterr().out.splitlines()
        assert all(name in line for name in NAMES)


COMMANDS = {
    "test": f"--ckpt_path {BEST}",
    "validate": f"--ckpt_path {BEST}",
    "fit": "--run.name again",
    "fit, going on": f"--ckpt_path {BEST} --trainer.max_epochs 2 --run.root more",
    "finetune": f"--init_from {BEST} --run.name tuned",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_fine_tuned_run_has_saved_serves_every_command(command, folder, capsys):
    run(f"{command.partition(',')[0]} --config {SAVED} {COMMANDS[command]}")
    told = "init_from, fresh_head" in capsys.readouterr().err
    assert told == (command != "finetune")


def test_what_fit_has_saved_serves_finetune(folder):
    run(f"fit --config {SAVED} --run.name plain")
    run("finetune --config runs/plain/version_0/config.yaml --init_from last --run.name plain")
    saved = [yaml.safe_load(path.read_text()) for path in Path("runs/plain").glob("*/config.yaml")]
    assert [config["model"]["classes"] for config in saved] == [sorted(NAMES)] * 2


def test_other_photos_are_refused_by_their_names_or_trained_on(folder):
    make_photos(folder / "others", ("犬", "chat noir", "fox"))
    options = f"--config {SAVED} --data.root others"
    for command in ("test", "validate"):
        with pytest.raises(SystemExit, match=r"for other classes \(only in the checkpoint: Γάτα"):
            run(f"{command} {options} --ckpt_path {BEST}")
    run(f"finetune {options} --init_from {BEST} --run.name others")
    assert dmn.load("runs/others/version_0").classes == ("chat noir", "fox", "犬")


@pytest.mark.parametrize("channels", effort.slow_except([1], [1, 3]))
def test_grey_photos_start_from_a_network_for_colours_as_such(channels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", mode="L")
    line = f"finetune --config folder --init_from scenes_front --data.channels {channels}"
    if channels == 3:
        run(line)
        return
    with pytest.raises(SystemExit, match=r"stage1.conv.weight .*--data.channels 3 reads grey"):
        run(line)


def test_names_that_yaml_takes_for_something_else_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", ODD)
    run("fit --config folder --run.name own")
    run(f"test --config {SAVED} --ckpt_path {BEST}")
    assert dmn.load("runs/own/version_0").classes == tuple(sorted(ODD))


@pytest.mark.slow  # data/test_folder.py divides such
def test_few_photos_of_many_classes_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"n{number:03}" for number in range(120)]
    make_photos(tmp_path / "photos", names, 3, size=(12, 10))
    run("fit --config folder --run.name own")
    assert len(dmn.load("runs/own/version_0").classes) == 120


def test_own_networks_and_photos_are_compared(folder):
    config = {
        "run": {"name": "mine"},
        "networks": {"own": {"name": "runs/own/version_0"}},
        "data": {
            "class_path": "dmn.data.Folder",
            "init_args": {"root": "photos", "size": 36, "num_workers": 0},
        },
        "metrics": ["Sparseness"],
        "budget": {"validation": 1, "test": 1, "expensive": 1, "seconds": 20},
        "methods": {"own": {"SplitCAM": {"layer": "stage1_2", "stream": "g"}, "Gradient": {}}},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    main(["compare", "--config", "mine.yaml"])
    report = Path("runs/compare/mine/report.html").read_text()
    assert any(name in report for name in NAMES)
