"""`dmn export` as its users meet it, and the recipe that serves its files."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dmn.cli.main import main

RECIPE = Path(__file__).parents[2] / "recipes/serve_onnx.py"
NETWORK = """\
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def refused(*args):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *args])
    return stopped.value.code


def serve(*args):
    """Run the recipe where neither torch nor dmn can be imported."""
    code = "import runpy, sys; sys.modules |= dict(torch=None, dmn=None)\n"
    code += "runpy.run_path(sys.argv[1])['main'](sys.argv[2:])"
    command = [sys.executable, "-c", code, str(RECIPE), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_network_is_exported_and_served(capsys):
    Path("exported_net.py").write_text(NETWORK, encoding="utf-8")
    Image.effect_noise((20, 16), 80).save("a.png")
    options = ["--size", "3", "8", "8", "--classes", "cat", "dog", "owl", "--stream", "all"]
    main(["export", "exported_net:make", "--onnx", "a.onnx", *options, "--target", "input"])
    out = capsys.readouterr().out
    assert "onnxruntime against torch" in out
    assert "logits  map_g  map_h  map_g-h" in out
    assert "saved a.onnx: 0.0 MiB" in out
    served = serve("a.png", "--graph", "a.onnx", "--target", "OWL")
    expected = ("cat", "dog", "owl", "SplitLRP, map_g, map_h, map_g-h")
    assert all(name in served.stdout for name in expected), served
    with Image.open("explained.png") as picture:
        assert picture.size == (24, 8)
    served = serve("a.png", "--graph", "a.onnx", "--target", "bat")
    assert served.stderr == "no class 'bat'; give a name, or an index from 0 to 2\n"


def test_what_cannot_be_is_refused_in_one_line(capsys):
    assert "ends with .onnx" in refused("mnist_paired", "--onnx", "a.pt")
    assert "no method 'nope'; there are" in refused(
        "mnist_paired", "--onnx", "a.onnx", "--method", "nope"
    )
    assert "--alpha is 0.7" in refused("mnist_paired", "--onnx", "a.onnx", "--alpha", "0.7")
    message = refused("mnist_paired", "--onnx", "a.onnx", "--layer", "nope")
    assert "nope" in message
    assert not list(Path().iterdir())
