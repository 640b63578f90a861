"""`dmn explain --against`, `--top_maps` and `--save`, and `dmn show`, as their users meet them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dmn.cli.explain import CELL
from dmn.cli.main import main
from dmn.data import MNIST
from dmn.explain import Against, Explanation, SplitLRP
from dmn.hub import load
from dmn.io.pictures import read_picture
from dmn.viz.panels import GAP, LABEL


@pytest.fixture(scope="module")
def network():
    return load("mnist_paired")


@pytest.fixture(autouse=True)
def pictures(tmp_path, monkeypatch):
    """Save two digits, a 0 and a 1, in the working directory."""
    monkeypatch.chdir(tmp_path)
    data = MNIST()
    data.setup("test")
    for name, number in (("zero.png", 0), ("one.png", 1)):
        to_pil_image(data.test.images[number]).save(name)


def run(*args):
    main(["explain", *args, "--model", "mnist_paired"])


def columns(path):
    with Image.open(path) as picture:
        return (picture.width - LABEL) // (CELL + GAP)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def seen(network, file):
    return network.transform(read_picture(file))[None]


def test_a_class_is_explained_against_another(network, capsys):
    """What is saved is the map of the difference of two logits, and its sign turns."""
    run("zero.png", "--target", "0", "--against", "6", "--method", "SplitLRP", "--maps", "a.npz")
    assert capsys.readouterr().out.startswith("zero.png: 0 ")
    run("zero.png", "--target", "6", "--against", "0", "--method", "SplitLRP", "--maps", "b.npz")
    printed = capsys.readouterr().out.splitlines()[0]
    assert printed.endswith("; why 6 and not 0?")
    with np.load("a.npz") as one, np.load("b.npz") as other:
        assert one["target"].tolist() == other["rival"].tolist() == [0]
        assert one["rival"].tolist() == other["target"].tolist() == [6]
        for stream in ("g", "h", "g-h"):
            expected = SplitLRP(network.model, stream=stream)(
                seen(network, "zero.png"), Against(0, 6)
            )
            assert np.array_equal(one[f"SplitLRP {stream}"], expected.numpy())
            assert np.array_equal(other[f"SplitLRP {stream}"], -expected.numpy())


def test_alone_it_is_the_most_probable_other(network, capsys):
    run("zero.png", "one.png", "--method", "Gradient", "--maps", "m.npz", "--against")
    lines = capsys.readouterr().out.splitlines()
    x = torch.cat([seen(network, name) for name in ("zero.png", "one.png")])
    ranked = network.model(x).topk(2, dim=1).indices
    with np.load("m.npz") as saved:
        assert saved["target"].tolist() == ranked[:, 0].tolist()
        assert saved["rival"].tolist() == ranked[:, 1].tolist()
    for line, (first, second) in zip(lines, ranked.tolist(), strict=False):
        assert line.endswith(f"; why {first} and not {second}?")


def test_the_most_probable_classes_are_side_by_side(network):
    run("zero.png", "one.png", "--top_maps", "3", "--stream", "g-h", "--maps", "m.npz")
    assert columns("explained.png") == 4
    with np.load("m.npz") as saved:
        assert {*saved} == {"image", "target", *(f"SplitLRP g-h top {n}" for n in (1, 2, 3))}
        assert saved["target"].shape == (2, 3)
        for row, name in enumerate(("zero.png", "one.png")):
            x = seen(network, name)
            for rank, index in enumerate(network.model(x)[0].topk(3).indices.tolist()):
                assert saved["target"][row, rank] == index
                expected = SplitLRP(network.model)(x, index)[0].numpy()
                assert np.array_equal(saved[f"SplitLRP g-h top {rank + 1}"][row], expected)


def test_one_explanation_is_a_file_and_several_are_a_folder(network, capsys):
    run("zero.png", "--method", "SplitLRP", "--against", "6", "--save", "zero.zip")
    made, again = Explanation.load("zero.zip"), network.explain("zero.png", against="6")
    assert made.settings == again.settings
    assert (made.target, made.rival, made.picture) == (again.target, again.rival, "zero.png")
    assert made.network_sha256 == network.card["sha256"]
    assert all(torch.equal(made.maps[stream], again.maps[stream]) for stream in ("g", "h", "g-h"))
    run("zero.png", "one.png", "--method", "SplitLRP", "Gradient", "--save", "all")
    names = [
        f"{picture}_{method}.zip"
        for picture in ("one", "zero")
        for method in ("Gradient", "SplitLRP")
    ]
    assert sorted(path.name for path in Path("all").iterdir()) == names
    assert [*Explanation.load("all/one_Gradient.zip").maps] == ["g-h"]
    assert f"saved {Path('all/one_Gradient.zip')}" in capsys.readouterr().out
    run("zero.png", "--top_maps", "2", "--save", "top")
    assert sorted(path.name for path in Path("top").iterdir()) == [
        "zero_SplitLRP_top1.zip",
        "zero_SplitLRP_top2.zip",
    ]


def test_a_saved_explanation_is_drawn_as_it_was(capsys):
    run("zero.png", "--method", "SplitLRP", "--save", "zero.zip", "--target", "6", "--against", "0")
    capsys.readouterr()
    main(["show", "zero.zip"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("zero.png: 0 ")
    assert lines[1:3] == ["explained: why 6 and not 0?", "method: SplitLRP, layer input"]
    assert lines[3].startswith("network: mnist_paired, sha256 ")
    assert lines[-1] == "saved shown.png"
    assert np.array_equal(pixels("shown.png"), pixels("explained.png"))
    Explanation.load("zero.zip").save("folder")
    main(["show", "folder", "--out", "again.png"])
    assert Path("again.png").read_bytes() == Path("shown.png").read_bytes()
    main(["show", "folder", "--out", "again.png"])
    assert "replaced again.png" in capsys.readouterr().out


def test_it_needs_no_network(monkeypatch):
    run("zero.png", "--method", "Gradient", "--save", "zero.zip")
    monkeypatch.setattr("dmn.hub.loading.load", None)
    main(["show", "zero.zip"])
    assert columns("shown.png") == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["zero.png", "--top_maps", "0"], "--top_maps is 0; give at least 1"),
        (["zero.png", "--top_maps", "2", "--target", "1"], "leave out --target, --against"),
        (["zero.png", "--top_maps", "2", "--against"], "leave out --target, --against"),
        (["zero.png", "--against", "cow"], "no class 'cow'"),
        (["zero.png", "--target", "3", "--against", "3"], "class 3 is its own rival"),
        (["zero.png", "--against", "--contrast", "clrp", "--method", "SplitLRP"], "leave contrast"),
        (["zero.png", "--save", "a.zip"], "there are 3 explanations; give a folder, or one"),
        (["zero.png", "one.png", "--save", "a.zip", "--method", "SplitLRP"], "2 explanations"),
        (["zero.png", "deep/zero.jpg", "--save", "a"], "two are called 'zero'"),
        (["zero.png", "--save", "one.png", "--method", "Gradient"], r"one\.png/zero_Gradient\.zip"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(args, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        run(*args)
    assert str(stopped.value).startswith("dmn: ")
    assert "\n" not in str(stopped.value)


def test_a_bundle_that_is_damaged_or_not_there_is_refused_in_one_line():
    with pytest.raises(SystemExit, match=r"dmn: none\.zip: there is no such bundle"):
        main(["show", "none.zip"])
    run("zero.png", "--method", "Gradient", "--save", "zero.zip")
    content = Path("zero.zip").read_bytes()
    middle = len(content) // 2
    Path("zero.zip").write_bytes(content[:middle] + b"\1\2\3" + content[middle + 3 :])
    with pytest.raises(SystemExit, match=r"dmn: zero\.zip: tensors\.safetensors: cannot be read"):
        main(["show", "zero.zip"])
    with pytest.raises(SystemExit, match=r"dmn: --out is 'a\.jpg'; give a name that"):
        main(["show", "zero.zip", "--out", "a.jpg"])
    assert not Path("shown.png").exists()
