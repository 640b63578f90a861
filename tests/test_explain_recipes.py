"""The recipes that explain pictures and that turn runs into checkpoints, on a run of `dmn fit`."""

import importlib.util
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmn.cli.main import main
from dmn.explain import list_methods
from dmn.hub import load

FIT = "fit --config debug --trainer.max_epochs 1 --trainer.num_sanity_val_steps 0 "
FIT += "--quantus.every_n_epochs 0 --heatmaps.every_n_epochs 0 --seed_everything 3"


def recipe(name):
    path = Path(__file__).parents[1] / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        main([*shlex.split(FIT), "--run.root", str(root)])
    return root / "debug" / "version_0"


def test_a_run_becomes_a_checkpoint_with_its_card(run_folder, tmp_path, capsys):
    options = shlex.split(f"digits --folder {tmp_path} --images 2")
    recipe("export").main([str(run_folder), *options])
    card = json.loads((tmp_path / "digits.json").read_text())
    found = load(str(tmp_path / "digits.safetensors"))
    assert (found.size, found.classes) == ((1, 28, 28), tuple("0123456789"))
    command = "dmn fit --config debug --trainer.max_epochs 1 --seed_everything 3"
    assert (card["name"], card["seed"], card["command"]) == ("digits", 3, command)
    score = card["accuracy"]
    assert score["n"] == 1000
    low, high = score["interval"]
    assert 0 <= low <= score["test"] <= high <= 1
    assert f"test accuracy {score['test']:.4f}" in capsys.readouterr().out
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(found.model(x), load(str(run_folder)).model(x))
    assert {"splitcam", "splitgrad", "splitlrp", "Random"} <= card["quantus"]["scores"].keys()
    assert card["training"]["optimizer"]["init_args"]["lr"] == 0.01
    recipe("export").main([str(tmp_path / "digits.safetensors"), *options, "--note", "anew"])
    again = json.loads((tmp_path / "digits.json").read_text())
    assert again == {**card, "note": "anew"}  # weights and scores too


def test_pictures_are_explained_by_runs_and_by_torchvision(run_folder, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for model in (str(run_folder), "squeezenet1_1"):
        out = tmp_path / f"{Path(model).name}.png"
        recipe("explain").main([str(tmp_path / "a.png"), "--model", model, "--out", str(out)])
        assert f"see {out}" in capsys.readouterr().out
        with Image.open(out) as picture:
            assert picture.width > 4 * 224


def test_the_pictures_of_the_documentation_are_what_the_shipped_networks_give(tmp_path, capsys):
    recipe("pictures").main(["--out", str(tmp_path)])
    drawn = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    names = ["compared", "heatmaps", "scenes_front"]
    large = [path.name for path in drawn if len(path.parts) == 1]
    assert large == [f"{name}{style}.png" for name in names for style in ("", "_dark")]
    methods = [path.stem for path in drawn if path.parts[0] == "methods"]
    registered = [spec.name.replace("+", "p") for spec in list_methods()]
    assert sorted(methods) == sorted([*registered, "image"])
    assert f"see {tmp_path / drawn[0]}" in capsys.readouterr().out
    for path in drawn:
        shown = Path(__file__).parents[1] / "docs" / "pictures" / path
        new, old = (np.asarray(Image.open(file), dtype=float) for file in (tmp_path / path, shown))
        assert new.shape == old.shape
        assert np.abs(new - old).mean() < 1, path  # of 255: rounding, and an antialiased letter
