"""`dmn certify` as its users meet it."""

import re

import pytest
import torch
from PIL import Image

from dmn.certify import box, guaranteed_margin, least_change
from dmn.cli.certify import certify
from dmn.cli.main import main
from dmn.data import MNIST
from dmn.hub import Network, load, save_network
from dmn.models import PlainCNN

CNN = {"class_path": "dmn.models.PlainCNN", "init_args": {"in_channels": 3, "widths": [4]}}


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Save two test digits and a mask in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    data = MNIST()
    data.setup("test")
    x = data.test.images[[0, 2]]
    for index, image in enumerate(x):
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(f"{index}.png")
    mask = torch.zeros(28, 28, dtype=torch.uint8)
    mask[:6, :6] = 255
    Image.fromarray(mask.numpy()).save("mask.png")
    Image.new("L", (28, 28)).save("black.png")
    return x, mask[None, None] > 0


@pytest.mark.parametrize("masked", [False, True])
def test_the_table_and_the_panel(digits, capsys, tmp_path, masked):
    x, mask = digits
    option = ["--mask", "mask.png"] if masked else []
    main(["certify", "0.png", "1.png", "--model", "mnist_inverted", "--eps", "0.01", *option])
    head, *lines, saved = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "class", "certain", "margin", "least", "change"]
    net = load("mnist_inverted").model
    target, region = net(x).argmax(1), mask if masked else None
    margins = guaranteed_margin(net, *box(x, 0.01, region), target)
    changes = least_change(net, x, target, region)
    for index, line in enumerate(lines):
        expected = [f"{index}.png", str(int(target[index]))]
        expected += ["yes" if margins[index] > 0 else "no"]
        expected += [f"{margins[index]:.3g}", f"{changes[index]:.4f}"]
        assert line.split() == expected
    assert saved == "saved certified.png"
    with Image.open(tmp_path / "certified.png") as panel:
        assert panel.size[0] > 500


def test_normalised_networks_are_certified_in_pixels(tmp_path, monkeypatch, capsys):
    """A certain change of pixels in [0, 1] is one of what the network sees, divided by std."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model = PlainCNN(3, (4,)).eval()
    network = Network("cnn", model, tuple("abcdefghij"), (3, 16, 16), mean, std, None, {"net": CNN})
    save_network(network, tmp_path)
    x = torch.rand(1, 3, 16, 16)
    Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy()).save("x.png")
    certify(["x.png"], "cnn.safetensors", eps=0.001)
    *_, margin, _ = capsys.readouterr().out.splitlines()[1].split()
    x = (x * 255).round() / 255
    ends = [
        (end - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        for end in box(x, 0.001)
    ]
    expected = guaranteed_margin(model, *ends, model((ends[0] + ends[1]) / 2).argmax(1))
    assert float(margin) == pytest.approx(float(expected), rel=0.02, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--eps", "2"], r"--eps is 2\.0; give 0 to 1"),
        (["--cell", "0"], "--cell is 0; give at least 1"),
        (["--mask", "nowhere.png"], "nowhere.png: "),
        (["--mask", "black.png"], "--mask black.png is nowhere white"),
        (["--target", "12"], "no class .12."),
        (["--out", "0.png"], "which is read as '0.png'"),
        (["--out", "map.jpg"], r"give a name that ends with \.png"),
    ],
)
def test_refusals_are_one_line(digits, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(["certify", "0.png", "--model", "mnist_inverted", *options])
    assert re.search(message, str(stopped.value.code))
    assert "\n" not in str(stopped.value.code)


def test_operations_without_a_rule_are_counted_by_kind(digits):
    with pytest.raises(SystemExit) as stopped:
        main(["certify", "0.png", "--model", "scenes_vit"])
    assert "9 LayerNorm" in str(stopped.value.code)
