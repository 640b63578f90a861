"""`dmn convert` as its users meet it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmn.canonize import folding_report
from dmn.cli.convert import convert
from dmn.cli.main import main
from dmn.errors import UnsupportedError
from dmn.hub import load
from dmn.io.resources import CHECKPOINTS
from dmn.split import SplitModel


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def photograph(path):
    from skimage import data

    Image.fromarray(data.astronaut()).resize((96, 80)).save(path)
    return str(path)


def run(*args):
    main(["convert", *args])


def shell(*args):
    command = [str(Path(sys.executable).with_name("dmn")), "convert", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ}, check=False
    )


@pytest.mark.slow
def test_what_was_folded_and_left_is_printed(capsys):
    run("convnext_tiny", "--form", "canonized", "--num_classes", "3", "--size", "3", "64", "64")
    out = capsys.readouterr().out
    assert "folded into linear operations: scale x 18, LayerNorm x 18, layer_norm x 4\n" in out
    assert out.count("left: ") == 1
    assert "features.1.0.block.0 (Conv2d), which pads by zeros, where the bias" in out
    loaded = load("convnext_tiny_canonized.safetensors").model
    assert str(folding_report(loaded)) in out


@pytest.mark.parametrize("form", ["split", "canonized", "both"])
def test_each_form_is_saved_and_comes_back(form, capsys):
    run("resnet18", "--form", form, "--num_classes", "3", "--images", photograph("a.png"))
    out = capsys.readouterr().out
    assert f"saved resnet18_{form}.safetensors: random weights, 3 classes" in out
    assert ("canonized: largest relative |f - original|" in out) == (form != "split")
    assert ("folded into linear operations: BatchNorm2d x 20\n" in out) == (form != "split")
    loaded = load(f"resnet18_{form}.safetensors")
    assert loaded.card["converted"]["architecture"] == "resnet18"
    assert (loaded.name, loaded.source) == (f"resnet18_{form}", "converted")
    assert loaded.classes == ("0", "1", "2")
    assert isinstance(loaded.model, SplitModel) == (form != "canonized")
    assert loaded.model(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    if form != "canonized":
        assert "largest |f - original|" in out
        assert out.count("0, bit-equal") == 2
        assert "not claimed" in out
        assert loaded.model.certified is not None
        assert str(loaded.model.certified) in out


def test_logits_that_are_all_zero_do_not_differ(capsys, monkeypatch):
    """As those of torchvision's ViT with random weights."""
    monkeypatch.syspath_prepend(".")
    Path("zero_head.py").write_text(
        "from torch import nn\n\n\n"
        "def make():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 2))\n"
        "    nn.init.zeros_(net[2].weight), nn.init.zeros_(net[2].bias)\n"
        "    return net\n",
        encoding="utf-8",
    )
    run("zero_head:make", "--form", "canonized", "--size", "3", "2", "2")
    out = capsys.readouterr().out
    assert "canonized: largest relative |f - original| 0 in float64" in out
    assert "folded into linear operations: LayerNorm x 1" in out


def test_options_reach_the_network(capsys):
    photograph("a.jpg"), photograph("b.png")
    run(
        *("squeezenet1_1", "--num_classes", "2", "--pool", "convex", "--theta", "1"),
        *("--out", "deep/net.safetensors", "--images", "a.jpg", "b.png"),
    )
    out = capsys.readouterr().out
    assert "pool convex, theta 1" in out
    assert "images 2x3x224x224" in out
    assert "holds in" in out
    network = load("deep/net.safetensors").model
    assert network.options.pool == "convex"
    assert network.options.theta == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_every_kind_are_read(mode):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).convert(
        mode
    ).save("a.png")
    convert("squeezenet1_1", num_classes=2, images=["a.png"], form="canonized")
    assert Path("squeezenet1_1_canonized.safetensors").exists()


def test_weights_of_ones_own_are_converted(capsys):
    from torchvision import models

    model = models.squeezenet1_1(num_classes=4).eval()
    torch.save(model.state_dict(), "mine.pth")
    run("squeezenet1_1", "--weights", "mine.pth", "--images", photograph("a.png"))
    assert "mine.pth weights, 4 classes" in capsys.readouterr().out
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(load("squeezenet1_1_split.safetensors").model(x), model(x))


@pytest.mark.torture("dmn convert --out {out}", "refused, the weights are as they were")
@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("mine.safetensors", "which is read as 'mine.safetensors'; give another name"),
        ("link.safetensors", "which is read as 'mine.safetensors'; give another name"),
        ("mine.pth", "give a name that ends with .safetensors"),
        (str(CHECKPOINTS / "scenes_resnet18.safetensors"), "which is read as"),
    ],
)
def test_no_weights_are_written_over_those_that_are_read(out, told, happened):
    Path("mine.safetensors").write_bytes(b"mine")
    Path("link.safetensors").symlink_to("mine.safetensors")
    before = Path(out).read_bytes() if Path(out).exists() else b""
    own = [] if "scenes" in out else ["--weights", "mine.safetensors"]
    with pytest.raises(SystemExit, match="dmn: --out is ") as stopped:
        run("scenes_resnet18" if "scenes" in out else "squeezenet1_1", *own, "--out", out)
    happened(str(stopped.value))
    assert told in str(stopped.value)
    assert (Path(out).read_bytes() if Path(out).exists() else b"") == before


def test_a_file_that_is_replaced_is_told(capsys):
    for told in ("saved", "replaced"):
        run(
            "squeezenet1_1",
            "--num_classes",
            "2",
            "--form",
            "canonized",
            "--images",
            photograph("a.png"),
        )
        assert f"{told} squeezenet1_1_canonized.safetensors: " in capsys.readouterr().out


def test_a_refusal_is_a_complete_list_and_no_traceback():
    result = shell("timm:hiera_tiny_224")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "cannot split Hiera: 3 of its operations have no rule" in result.stderr
    assert result.stderr.count("(amax): no rule") == 3
    assert "blocks.1.amax (amax)" in result.stderr
    assert list(Path.cwd().iterdir()) == []
    with pytest.raises(UnsupportedError):
        convert("timm:hiera_tiny_224")


def not_an_image():
    Path("a.png").write_text("not an image")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["resnet81"], "no classifier 'resnet81'; close are"),
        (["resnet18", "--images", "none.png"], "none.png: there is no such file"),
        (["resnet18", "--images", "a.png"], "a.png: cannot be read as an image"),
        (["resnet18", "--images", "."], ".: this is a folder; give the image files in it"),
        (["resnet18", "--weights", "none.pth"], "none.pth: there is no such file"),
        (["resnet18", "--weights", "a.png"], "no weights 'a.png'"),
        (["resnet18", "--theta", "2"], "theta is 2.0, not in"),
        (["resnet18", "--pool", "mean"], "invalid choice: 'mean'"),
        (["resnet18", "--form", "none"], "invalid choice: 'none'"),
        ([], "the following arguments are required: name"),
    ],
)
def test_mistakes_are_named(args, message, capsys):
    not_an_image()
    with pytest.raises(SystemExit) as stopped:
        run(*args)
    told = f"{stopped.value.code}\n{capsys.readouterr().err}"
    assert message in told
    assert "Traceback" not in told
    assert not list(Path.cwd().glob("*.safetensors"))


def test_help_reads_like_documentation(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "dmn convert resnet18 --weights DEFAULT" in out
    assert "--threshold" in out
