"""`dmn view`, as its users meet it."""

import json
import re

import pytest
from torchvision.transforms.functional import to_pil_image

from dmn.cli.main import main
from dmn.data import MNIST
from dmn.hub import load
from dmn.view import runtime


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_it_shows_test_images_where_none_are_named(folder, capsys):
    main(["view", "mnist_paired", "--live", "false", "--top", "2"])
    said = capsys.readouterr().out
    assert re.search(r"saved view.html: \d+\.\d MiB; open it in a browser", said)
    data = data_of(folder / "view.html")
    assert [image["name"] for image in data["images"]][:2] == [
        "test image 1, class 0",
        "test image 2, class 1",
    ]
    assert len(data["images"]) == 10
    assert all(len(image["classes"]) == 2 for image in data["images"])
    assert data["methods"][0]["streams"] == ["g", "h", "g-h"]
    assert 0 < data["images"][0]["scores"]["SplitLRP/g"]["Sparseness"] < 1


def test_it_shows_pictures(folder, capsys):
    digits = MNIST()
    digits.setup("test")
    to_pil_image(digits.test.images[3]).save("three.png")
    args = ["view", "mnist_paired", "three.png", "--live", "false", "--method", "splitcam"]
    main([*args, "--out", "three.html"])
    data = data_of(folder / "three.html")
    assert [image["name"] for image in data["images"]] == ["three.png"]
    assert data["images"][0]["classes"][0] == 3
    assert data["methods"][0]["name"] == "SplitCAM"


def test_it_shows_saved_explanations(folder, capsys):
    digits = MNIST()
    digits.setup("test")
    load("mnist_paired").explain(digits.test.images[3], target=3, against=8).save("three.zip")
    main(["view", "mnist_paired", "--explanations", "three.zip", "--live", "false"])
    data = data_of(folder / "view.html")
    assert [each["saved"] for each in data["images"]] == [{"target": 3, "rival": 8}]


def test_without_npm_the_page_shows_images_only(folder, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("npm_config_registry", (folder / "nothing").as_uri())
    main(["view", "mnist_paired", "--top", "1"])
    said = capsys.readouterr().out
    assert f"does not run in the page: {runtime.NAME} {runtime.VERSION} cannot be fetched" in said
    assert data_of(folder / "view.html")["live"] is False


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mnist_paired", "--alpha", "0.9"], "--alpha is 0.9; give 0 to 0.5"),
        (["mnist_paired", "--top", "0"], "--top is 0; give at least 1"),
        (["mnist_paired", "--out", "view.txt"], "--out"),
        (["mnist_paired", "--method", "GradCAM"], "GradCAM"),
        (["mnist_paired", "no.png"], "no.png"),
        (["mnist_paired", "--explanations", "no.zip"], "no.zip"),
        (["resnet18"], "resnet18 brings no images; name some picture files"),
    ],
)
def test_what_cannot_be_is_one_line(args, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["view", *args])
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
