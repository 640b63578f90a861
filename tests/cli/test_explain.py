"""`dmn explain` as its users meet it."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmn.cli.explain import CELL, METHODS, WITHOUT_RULES, explain
from dmn.cli.main import main
from dmn.errors import UnsupportedError
from dmn.hub import Network, load, save_network
from dmn.io.pictures import read_picture
from dmn.models import DifferenceOfMonotone, MonotoneConvNet, MonotoneMLP, PlainCNN, Trunk
from dmn.viz.panels import GAP, LABEL, panel

SIDE = {"in_channels": 2, "widths": [4, 6], "units": 1, "grid": 2, "num_classes": 3}
NETS = {
    "pair": {
        "class_path": "dmn.models.DifferenceOfMonotone",
        "init_args": {
            side: {"class_path": "dmn.models.MonotoneConvNet", "init_args": SIDE} for side in "gh"
        },
    },
    "cnn": {"class_path": "dmn.models.PlainCNN", "init_args": {"in_channels": 3, "widths": [4, 6]}},
}
ONE = {"in_channels": 3, "widths": [4, 6], "num_classes": 1}
NETS["one"] = {"class_path": "dmn.models.PlainCNN", "init_args": ONE}
FLAT = {"in_features": 512, "hidden": [4], "num_classes": 3}
NETS["mlp"] = {
    "class_path": "dmn.models.DifferenceOfMonotone",
    "init_args": {
        "margin": 0,
        **{side: {"class_path": "dmn.models.MonotoneMLP", "init_args": FLAT} for side in "gh"},
    },
}
FRONT = {
    "class_path": "dmn.models.Trunk",
    "init_args": {"net": NETS["cnn"], "layer": "stage1"},
}
BEHIND = {
    side: {"class_path": "dmn.models.MonotoneConvNet", "init_args": {**SIDE, "in_channels": 8}}
    for side in "gh"
}
NETS["fronted"] = {
    "class_path": "dmn.models.DifferenceOfMonotone",
    "init_args": {**BEHIND, "inputs": "opposed", "front": FRONT},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Save a pair for grey images, and a CNN and a pair behind a front for coloured ones."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    pair = DifferenceOfMonotone(MonotoneConvNet(**SIDE), MonotoneConvNet(**SIDE))
    sides = (MonotoneConvNet(**{**SIDE, "in_channels": 8}) for _ in range(2))
    fronted = DifferenceOfMonotone(*sides, "opposed", front=Trunk(PlainCNN(3, (4, 6)), "stage1"))
    named = ("tabby", "tiger cat", "zebra")
    made = {
        "pair": (pair, named, (1, 16, 16)),
        "fronted": (fronted, named, (3, 32, 32)),
        "cnn": (PlainCNN(3, (4, 6)), tuple("0123456789"), (3, 32, 32)),
        "one": (PlainCNN(**ONE), ("ship",), (3, 32, 32)),
        "mlp": (
            DifferenceOfMonotone(MonotoneMLP(**FLAT), MonotoneMLP(**FLAT), margin=0),
            named,
            (1, 16, 16),
        ),
    }
    for name, (model, classes, size) in made.items():
        card = {"net": NETS[name]}
        network = Network(name, model.eval(), classes, size, None, None, None, card)
        save_network(network, folder)
    return folder


@pytest.fixture
def run(models, tmp_path, monkeypatch):
    """Run the command in a folder with two pictures, one of them wide."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 30, 3)), ("b.jpg", (20, 60, 3))):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(name)

    def call(model, *args):
        main(["explain", *args, "--model", str(models / f"{model}.safetensors")])

    return call


def columns(path="explained.png"):
    """Count the columns of a panel whose rows have short names."""
    with Image.open(path) as picture:
        return (picture.width - LABEL) // (CELL + GAP)


def test_a_pair_explains_itself_by_both_sides(run, capsys):
    run("pair", "a.png", "b.jpg", "--top", "2")
    lines = capsys.readouterr().out.splitlines()
    for file, line in zip(["a.png", "b.jpg"], lines, strict=False):
        share = r"(tabby|tiger cat|zebra) (\d+|<1) %"
        assert re.fullmatch(rf"{file}: {share}, {share}", line)
    sides = [f"{name} {side}" for name in ("SplitCAM", "SplitLRP") for side in ("g", "h", "g-h")]
    assert lines[2:] == [f"saved explained.png: {', '.join(sides)}, GradCAM"]
    assert columns() == 8


def test_any_other_network_is_split(run, capsys):
    run("cnn", "a.png", "--out", "deep/panel.png")
    assert "saved deep/panel.png: SplitCAM g, SplitLRP g-h, GradCAM" in capsys.readouterr().out
    assert columns("deep/panel.png") == 4
    pixels = np.asarray(Image.open("deep/panel.png")).astype(int)
    of_maps = pixels[:, LABEL + CELL + GAP :]
    assert ((of_maps[..., 0] - of_maps[..., 2]) > 60).any()


def test_behind_a_front_the_image_is_read(run, capsys):
    layers = {"own.png": [], "input.png": ["--layer", "input"], "front.png": ["--layer", "front"]}
    for out, options in layers.items():
        run("fronted", "a.png", "--method", "SplitCAM", "SplitLRP", *options, "--out", out)
    own, image, front = (Path(out).read_bytes() for out in layers)
    assert own == image != front


@pytest.mark.parametrize("model", ["pair", "cnn", "fronted"])
def test_every_method_is_drawn_by_its_name_in_any_case(model, run, capsys):
    methods = [spec for spec in METHODS if not spec.needs_attention]  # these networks have none
    run(model, "a.png", "--stream", "g", "--method", *(spec.name.upper() for spec in methods))
    drawn = capsys.readouterr().out.splitlines()[-1].removeprefix("saved explained.png: ")
    assert [title.removesuffix(" g") for title in drawn.split(", ")] == [
        spec.name for spec in methods
    ]
    assert columns() == 1 + len(methods)


def test_options_change_what_is_seen(run, monkeypatch):
    """Each option gives another picture, and the same one again."""
    variants = {
        "plain": [],
        "layer": ["--layer", "stage1.conv"],
        "target": ["--target", "1"],
        "stream": ["--stream", "h"],
        "alpha": ["--layer", "stage1.conv", "--alpha", "0"],
        "contrast": ["--contrast"],
        "invert": ["--invert"],
    }
    seen = {}
    for name, options in variants.items():
        for out in ("one.png", "two.png"):
            run("cnn", "a.png", "--method", "SplitCAM", *options, "--out", out)
        assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
        seen[name] = Path("one.png").read_bytes()
    assert len(set(seen.values())) == len(seen)


def test_contrast_has_a_form_where_relevance_has(run):
    """Alone it is the method's own form, and the word after it may be a picture."""
    seen = {}
    for form in ("false", "true", "mean", "clrp", "sglrp"):
        run("cnn", "a.png", "--method", "SplitLRP", "LRPEpsilon", "--contrast", form)
        seen[form] = Path("explained.png").read_bytes()
    assert len(set(seen.values())) == len(seen)
    run("cnn", "--contrast", "a.png", "--method", "SplitLRP", "LRPEpsilon")
    assert Path("explained.png").read_bytes() == seen["true"]
    run("cnn", "a.png", "--method", "SplitLRP", "LRPEpsilon", "--contrast")
    assert Path("explained.png").read_bytes() == seen["true"]
    with pytest.raises(SystemExit, match=r"dmn: SplitCAM takes no contrast 'clrp', .* true"):
        run("cnn", "a.png", "--method", "SplitCAM", "--contrast", "clrp")


def test_inverting_is_turning_dark_on_white_into_white_on_dark(run, capsys):
    Image.fromarray(255 - np.asarray(Image.open("a.png"))).save("negative.png")
    run("pair", "a.png", "--invert")
    inverted = capsys.readouterr().out
    run("pair", "negative.png")
    same = inverted.replace("a.png", "negative.png", 1).replace("saved", "replaced")
    assert capsys.readouterr().out == same  # where the first picture was


def test_classes_are_found_by_name_first_and_by_index(run):
    pictures = []
    for target in ("Tiger Cat", "tiger cat", "1"):
        run("pair", "a.png", "--target", target, "--method", "SplitGrad")
        with Image.open("explained.png") as picture:
            pictures.append(np.asarray(picture)[:, -3 * (CELL + GAP) :])
    assert all(np.array_equal(pictures[0], picture) for picture in pictures)


def test_one_logit_is_as_probable_as_its_sigmoid(run, models, capsys):
    network = load(str(models / "one.safetensors"))
    with torch.no_grad():
        share = network.model(network.transform(read_picture("a.png"))[None]).sigmoid().item()
    run("one", "a.png")
    assert capsys.readouterr().out.splitlines()[0] == f"a.png: ship {100 * share:.0f} %"
    for method in ("SplitCAM", "SplitLRP", "Gradient", "LRPEpsilon"):
        with pytest.raises(SystemExit, match="dmn: contrast needs two classes, and the network"):
            run("one", "a.png", "--contrast", "--method", method)
    with pytest.raises(SystemExit, match="dmn: no class '1'; there is ship, by name"):
        run("one", "a.png", "--target", "1")


@pytest.mark.parametrize("method", ["GradCAM", "GradCAM++", "LayerCAM"])
def test_activation_maps_ask_for_a_layer_where_none_holds_an_image_at_the_end(method, run):
    wanted = rf"dmn: {re.escape(method)} reads a layer .*: name another by --layer"
    with pytest.raises(SystemExit, match=wanted):
        run("mlp", "a.png", "--method", method)
    with pytest.raises(SystemExit, match=wanted):
        run("cnn", "a.png", "--method", method, "--layer", "input")
    run("mlp", "a.png", "--method", "SplitCAM", "Gradient")


def test_random_weights_are_pointed_out(run, models, capsys):
    explain(["a.png"], "squeezenet1_1", method=["Gradient"], out="x.png")
    assert "squeezenet1_1 has random weights, and knows nothing" in capsys.readouterr().out


def test_a_network_without_rules_is_told_by_kind_and_with_methods_that_work(run):
    """Every operation is counted, and named in the error; the named methods explain the network."""
    model = "timm:hiera_tiny_224"
    with pytest.raises(UnsupportedError) as refused:
        explain(["a.png"], model)
    head, line, hint = refused.value.lines
    places = [node.path.removesuffix(" (amax)") for node in refused.value.nodes]
    assert len(set(places)) == 3
    assert "cannot split Hiera: 3 of its operations have no rule" in head
    assert line.startswith(f"  3 amax ({', '.join(places)}): ")
    assert hint == f"these and other methods need no rules: --method {' '.join(WITHOUT_RULES)}"
    explain(["a.png"], model, method=[name for name in WITHOUT_RULES if name != "Occlusion"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.png"], "none.png: there is no such file"),
        (["."], ".: this is a folder; give the image files in it"),
        (["a.png", "bad.png"], "bad.png: cannot be read as an image"),
        (["a.png", "--method", "magic"], "no method 'magic'; there are SplitCAM,"),
        (["a.png", "--target", "tiger"], "no class 'tiger'; there are tiger cat"),
        (["a.png", "--target", "3"], "0 to 2"),
        (["a.png", "--target", "-1"], "no class '-1'"),
        (["a.png", "--layer", "stage9"], "no layer 'stage9'; there are input, stem"),
        (["a.png", "--alpha", ".2"], "alpha: for split networks only"),
        (["a.png", "--stream", "f"], "invalid choice: 'f'"),
        ([], "the following arguments are required: images"),
    ],
)
def test_mistakes_are_named(args, message, run, capsys):
    Path("bad.png").write_text("not an image")
    with pytest.raises(SystemExit) as stopped:
        run("pair", *args)
    told = f"{stopped.value.code}\n{capsys.readouterr().err}"
    assert message in told
    assert "Traceback" not in told
    assert not Path("explained.png").exists()


@pytest.mark.torture("dmn explain --{option} {value}", "refused by its name, nothing is written")
@pytest.mark.parametrize(
    ("option", "value"), [("top", "0"), ("top", "-1"), ("alpha", "2"), ("alpha", "nan")]
)
def test_options_that_cannot_be_are_named(option, value, run, happened):
    with pytest.raises(SystemExit, match=f"dmn: --{option} is {value}.*; give ") as stopped:
        run("pair", "a.png", "--" + option, value)
    assert not Path("explained.png").exists()
    happened(str(stopped.value))


OUT = {
    "a picture": ("a.png", "is 'a.png', which is read as 'a.png'; give another name"),
    "a picture by another path": ("./sub/../a.png", "which is read as 'a.png'"),
    "a link to a picture": ("link.png", "which is read as 'a.png'"),
    "a second name of a picture": ("hard.png", "which is read as 'a.png'"),
    "a picture that is no PNG": ("b.jpg", "is 'b.jpg'; give a name that ends with .png"),
    "a device": ("/dev/stdout", "give a name that ends with .png"),
}


@pytest.mark.torture("dmn explain --out {what}", "refused, nothing is written")
@pytest.mark.parametrize("what", OUT)
def test_no_picture_is_written_over_one_that_is_read(what, run, happened):
    out, told = OUT[what]
    Path("sub").mkdir()
    Path("link.png").symlink_to("a.png")
    Path("hard.png").hardlink_to("a.png")
    before = {path: path.read_bytes() for path in Path().glob("*.*")}
    with pytest.raises(SystemExit) as stopped:
        run("pair", "a.png", "b.jpg", "--out", out)
    happened(str(stopped.value))
    assert told in str(stopped.value)
    assert {path: path.read_bytes() for path in Path().glob("*.*")} == before


@pytest.mark.torture("pictures whose names are no text, or hold quotes and lines", "explained")
def test_pictures_may_have_any_name(run):
    names = [os.fsdecode(b"\xff.png"), "two\nlines.png", "<b>'\"$(x)&.png"]
    for name in names:
        shutil.copy("a.png", name)
    run("pair", *names, "--method", "SplitCAM")
    assert Path("explained.png").exists()


@pytest.mark.torture(
    "files, classes and options called as what a terminal obeys", "escaped wherever printed"
)
def test_names_cannot_command_a_terminal(run, models, capsys):
    evil = "\x1b[2J\x9b31m\u202e"
    card = models / "pair.json"
    told = json.loads(card.read_text())
    strange = {**told, "classes": [f"{name}{evil}" for name in told["classes"]]}
    shutil.copy("a.png", f"a{evil}.png")
    card.write_text(json.dumps(strange))
    run("pair", f"a{evil}.png", "--method", "SplitCAM", "--out", f"{evil}.png")
    card.write_text(json.dumps(told))
    for refused in ([f"none{evil}.png"], ["a.png", f"--{evil}"], ["a.png", "--target", evil]):
        with pytest.raises(SystemExit) as stopped:
            run("pair", *refused)
        print(stopped.value.code)
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert not set(evil) & set(printed) - set("[2J31m")
    assert printed.count("\\x1b[2J\\x9b31m\\u202e") > 7


def test_help_reads_like_documentation(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "dmn explain cat.jpg --model resnet18 --weights DEFAULT" in out
    assert "IntegratedGradients" in out


def test_maps_are_saved_as_numbers(run, models):
    run("pair", "a.png", "b.jpg", "--maps", "maps.npz", "--target", "zebra", "--method", "SplitLRP")
    network = load(models / "pair.safetensors")
    with np.load("maps.npz") as saved:
        maps = dict(saved)
    assert maps["target"].tolist() == [2, 2]
    assert set(maps) == {"target", "image", "SplitLRP g", "SplitLRP h", "SplitLRP g-h"}
    pictures = [network.transform(read_picture(name)) for name in ("a.png", "b.jpg")]
    x = torch.stack(pictures)
    assert np.allclose(maps["image"], network.restore(x), atol=1e-6)
    expected = network.model.explain(x, 2, "SplitLRP", stream="g")
    assert np.allclose(maps["SplitLRP g"], expected, atol=1e-6)


def test_maps_of_several_sizes_are_refused_before_any_work(run, models, tmp_path, monkeypatch):
    (tmp_path / "flexible.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    parts = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*parts, nn.Linear(4, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ["explain", "a.png", "b.jpg", "--model", "flexible:make", "--maps"]
    with pytest.raises(SystemExit, match="--maps takes pictures of one size, which --size makes"):
        main([*command, "maps.npz"])
    assert not Path("maps.npz").exists()
    with pytest.raises(SystemExit, match=r"--maps is 'maps.txt'; give a name that ends with .npz"):
        main([*command, "maps.txt"])


def test_names_that_cannot_be_drawn_are_printed_and_drawn_as_numbers(
    run, models, capsys, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        "dmn.cli.explain.panel", lambda c, rows, *rest: drawn.extend(rows) or panel(c, rows, *rest)
    )
    network = load(models / "pair.safetensors")
    named = replace(network, classes=("Γάτα", "犬", "chat"))
    monkeypatch.setattr("dmn.cli.explain.load", lambda *args, **options: named)
    run("pair", "a.png", "--method", "SplitLRP", "--target", "犬")
    assert "犬" in capsys.readouterr().out
    (row,) = drawn
    assert "Γάτα" in row
    assert "class 1 " in row
    assert "why class 1?" in row
    assert "犬" not in row
