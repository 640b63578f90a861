"""Every shipped config runs, and every command in its header parses."""

import re
import shlex

import effort
import pytest
import yaml
from photos import make_photos

from dmn.cli.main import main
from dmn.errors import UnknownNameError
from dmn.io.resources import CONFIGS, config_names, config_path

SHORT = shlex.split(
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 "
    "--trainer.num_sanity_val_steps 0 --quantus.images 2 --heatmaps.images 2"
)
ELSEWHERE = {"cifar10", "imagenet", "mnist_full"}  # not bundled: tried in test_scale_configs
# Digits, and scenes with a front. Images of one's own are in cli/test_own_images.py. Of the others,
# the commands of the header parse here, and `dmn validate` scores the explainers in
# cli/test_validate.py.
QUICK = {"debug", "scenes_front"}


def header(name):
    return re.match(r"(#.*\n)+", (CONFIGS / f"{name}.yaml").read_text()).group()


def commands():
    for name in config_names():
        for line in re.findall(r"^#   dmn (.+)$", header(name), re.M):
            yield pytest.param(shlex.split(line, comments=True), id=line.partition("#")[0])


@pytest.mark.parametrize("name", effort.slow_except(QUICK, sorted({*config_names()} - ELSEWHERE)))
def test_configs_train_and_leave_what_is_promised(name, tmp_path):
    options = ["--data.root", str(make_photos(tmp_path / "photos"))] if name == "folder" else []
    main(["fit", "--config", name, "--run.root", str(tmp_path), *SHORT, *options])
    folder = tmp_path / name / "version_0"
    watched = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["explainers"]
    for left in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (folder / left).is_file(), left
    assert len(list(folder.glob("heatmaps/*.png"))) == len(watched) > 1
    pictures = folder.glob("wandb/offline-run-*/files/media/images/heatmap/*.png")
    assert len(list(pictures)) == len(watched)


@pytest.mark.parametrize("args", list(commands()))
def test_commands_of_the_headers_parse(args, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["net"]["class_path"].startswith("dmn.models.")


@pytest.mark.parametrize("name", config_names())
def test_headers_say_what_the_command_and_an_override(name):
    lines = header(name).splitlines()
    assert lines[0][2:].strip()
    shown = [line for line in lines if line.startswith("#   dmn ")]
    assert any(f"--config {name}" in line for line in shown)
    assert any(re.search(r" --(trainer|data|model)\.", line) for line in shown)


def test_configs_are_named_after_their_run():
    for name in config_names():
        assert yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["run"]["name"] == name


def test_configs_are_found_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path("mnist") == config_path("mnist.yaml") == CONFIGS / "mnist.yaml"
    (tmp_path / "own.yaml").touch()
    assert config_path("own.yaml").is_file()
    with pytest.raises(UnknownNameError, match=r"no config 'nope'.* debug, .* mnist, "):
        config_path("nope")
