"""Networks of one's own code on the command line: explained, converted, compared."""

import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from dmn.cli.main import main
from dmn.compare import Source
from dmn.hub import load

CODE = """
from torch import nn

def make(num_classes=10):
    first = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()
    return nn.Sequential(
        *first, nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, num_classes),
    )

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def broken():
    raise RuntimeError("not today")
"""
_numbers = count()


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Write a module, weights of its network as a training saves them, and a picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    name = f"own_nets_{next(_numbers)}"
    Path(f"{name}.py").write_text(CODE)
    torch.manual_seed(0)
    state = load(f"{name}:make", num_classes=2).model.state_dict()
    named = {f"model.{key}": value for key, value in state.items()}
    torch.save({"state_dict": named, "epoch": 1}, "mine.ckpt")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    return name


def test_it_is_explained_by_its_names(code, capsys):
    own = ["--weights", "mine.ckpt", "--size", "3", "32", "32", "--classes", "cat", "dog"]
    scale = ["--mean", "0.5", "--std", "0.25"]
    main(["explain", "a.png", "--model", f"{code}:make", *own, *scale, "--target", "dog"])
    first, last = capsys.readouterr().out.splitlines()
    assert "cat" in first
    assert "dog" in first
    assert last == "saved explained.png: SplitCAM g, SplitLRP g-h, GradCAM"


def test_it_is_explained_as_it_is_without_names(code, capsys):
    """The picture keeps its size, and classes are called by their numbers."""
    weights = ["--weights", "mine.ckpt", "--num_classes", "2"]
    main(["explain", "a.png", "--model", f"{code}:make", *weights, "--target", "1", "--top", "2"])
    assert {"0", "1"} <= set(capsys.readouterr().out.splitlines()[0].split())
    with pytest.raises(
        SystemExit, match=r"no class 'dog'.* give an index, or --classes"
    ) as stopped:
        main(["explain", "a.png", "--model", f"{code}:make", "--target", "dog"])
    assert "\n" not in str(stopped.value)


def test_names_stand_in_a_file_too(code, capsys):
    Path("labels.txt").write_text("Katze\nHund\n")
    own = ["--weights", "mine.ckpt", "--classes", "labels.txt"]
    main(["explain", "a.png", "--model", f"{code}:make", *own])
    assert {"Katze", "Hund"} <= set(capsys.readouterr().out.splitlines()[0].split())


@pytest.mark.parametrize("form", ["split", "canonized"])
def test_it_is_converted_and_the_file_asks_for_its_model(form, code, capsys):
    own = ["--weights", "mine.ckpt", "--size", "3", "32", "32", "--classes", "cat", "dog"]
    main(["convert", f"{code}:make", "--form", form, *own])
    assert f"saved make_{form}.safetensors: mine.ckpt weights, 2 classes" in capsys.readouterr().out
    original = load(f"{code}:make", "mine.ckpt", num_classes=2)
    converted = load(f"make_{form}.safetensors", model=load(f"{code}:make", num_classes=2).model)
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(converted.model(x), original.model(x), rtol=1e-4, atol=1e-5)
    assert (converted.classes, converted.size) == (("cat", "dog"), (3, 32, 32))
    with pytest.raises(SystemExit, match=rf"is of {code}:make, and no file has") as stopped:
        main(["explain", "a.png", "--model", f"make_{form}.safetensors"])
    assert "\n" not in str(stopped.value)


def test_it_is_converted_without_names(code, capsys):
    main(["convert", f"{code}:make", "--form", "canonized"])
    assert "own weights, unnamed classes" in capsys.readouterr().out


def test_pictures_of_several_sizes_need_one(code, capsys):
    Image.new("RGB", (50, 50)).save("b.png")
    images = ["--images", "a.png", "b.png"]
    with pytest.raises(SystemExit, match="several sizes; say by --size what"):
        main(["convert", f"{code}:make", *images])
    main(["convert", f"{code}:make", *images, "--size", "3", "24", "24"])
    assert "images 2x3x24x24" in " ".join(capsys.readouterr().out.split())


def test_it_is_compared(code):
    torch.save(load(f"{code}:make").model.state_dict(), "ten.pth")
    own = {"name": f"{code}:make", "weights": "ten.pth", "num_classes": 10}
    methods = {"SplitLRP": {"stream": "g"}, "Gradient": None}
    config = {
        "run": {"name": "own"},
        "networks": {"own": own},
        "data": {"class_path": "dmn.data.Scenes"},
        "metrics": ["PointingGame"],
        "choose_by": ["PointingGame"],
        "budget": {"validation": 2, "test": 3, "expensive": 2},
        "gallery": 2,
        "device": "cpu",
        "methods": {"own": methods},
    }
    Path("own.yaml").write_text(yaml.safe_dump(config))
    main(["compare", "--config", "own.yaml"])
    scores = pd.read_parquet("runs/compare/own/scores.parquet")
    assert set(scores["network"]) == {"own"}
    assert set(methods) <= set(scores["method"])
    assert Path("runs/compare/own/report.html").is_file()


def test_a_comparison_says_what_its_images_are_like(code):
    images = {"size": [3, 20, 24], "mean": [0.5], "std": [0.25]}
    network = Source(f"{code}:make", "mine.ckpt", classes=["cat", "dog"], **images).load("cpu")
    assert network.classes == ("cat", "dog")
    assert network.transform(torch.rand(3, 50, 50)).shape == (3, 20, 24)
    assert (network.mean, network.std) == ((0.5,), (0.25,))


MISTAKES = {
    "nowhere_at_all:make": "is not imported: ModuleNotFoundError: No module named",
    "{code}:none": "has no 'none', but make, flat, broken",
    "{code}:broken": r"fails: RuntimeError: not today \(own_nets_\d+\.py, line \d+\)",
    "{code}:flat": r"fails at an image of size 3x\d+x\d+: .*; if it takes another size, .*--size",
    "{code}:nn": "is a module; give a function or a class",
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("command", [["explain", "a.png", "--model"], ["convert"]])
def test_mistakes_are_told_in_one_line(command, name, code):
    with pytest.raises(SystemExit, match=rf"^dmn: .*{MISTAKES[name]}") as stopped:
        main([*command, name.format(code=code)])
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "option", [["--size", "3", "8", "8"], ["--mean", "0"], ["--std", "1"], ["--classes", "a"]]
)
@pytest.mark.parametrize("command", [["explain", "a.png", "--model"], ["convert"]])
@pytest.mark.usefixtures("code")
def test_options_are_of_such_names_only(command, option):
    told = rf"{option[0][2:]} is for .* networks of your own .* only; leave it out for 'scenes'"
    with pytest.raises(SystemExit, match=told):
        main([*command, "scenes", *option])


def test_the_working_directory_is_looked_through_as_a_process(code):
    """As `python -m` does; the command's own folder is first otherwise."""
    command = [str(Path(sys.executable).with_name("dmn")), "explain", "a.png", "--top", "1"]
    ended = subprocess.run(
        [*command, "--model", f"{code}:make", "--method", "Gradient", "--weights", "none.pth"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 1
    assert "dmn: none.pth: there is no such file" in ended.stderr
    ended = subprocess.run(
        [*command, "--model", f"{code}:make", "--method", "Gradient"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "saved explained.png: Gradient" in ended.stdout
