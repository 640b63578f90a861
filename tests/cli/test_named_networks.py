"""Networks of timm and Hugging Face on the command line: explained, converted, compared."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from skimage import data
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor
from transformers.utils import logging

from dmn.cli.main import main
from dmn.compare import Source
from dmn.hub import load

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
ANIMALS = {0: "cat", 1: "dog"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work where a photograph lies, and a network of Hugging Face in the folder `mine`."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.chelsea()).save("cat.png")
    monkeypatch.setattr(logging, "_tqdm_active", False)
    config = ResNetConfig(**RESNET, id2label=ANIMALS, label2id={"cat": 0, "dog": 1})
    ResNetForImageClassification(config).save_pretrained("mine")
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained("mine")
    return tmp_path


def lines(capsys):
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("folder")
def test_a_network_of_timm_is_explained(capsys):
    without_rules = ["--method", "Gradient", "IntegratedGradients", "--maps", "maps.npz"]
    main(["explain", "cat.png", "--model", "timm:test_vit", *without_rules, "--target", "tabby"])
    told, likely, saved = lines(capsys)
    assert told == "timm:test_vit has random weights, and knows nothing; give it some by --weights"
    assert likely.startswith("cat.png: ")
    assert saved == "saved explained.png: Gradient, IntegratedGradients"
    with np.load("maps.npz") as maps:
        assert maps["target"].tolist() == [281]
        assert maps["Gradient"].shape == (1, 1, 160, 160)
        assert np.isfinite(maps["Gradient"]).all()
        pixels = np.asarray(Image.fromarray(data.chelsea())).mean((0, 1)) / 255
        assert np.abs(maps["image"].mean((0, 2, 3)) - pixels).max() < 0.1


@pytest.mark.usefixtures("folder")
def test_a_network_of_hugging_face_is_explained_by_its_names(capsys):
    main(["explain", "cat.png", "--model", "hf:mine", "--target", "dog"])
    likely, saved = lines(capsys)
    assert "cat " in likely
    assert "dog " in likely
    assert saved == "saved explained.png: SplitCAM g, SplitLRP g-h, GradCAM"
    Path("mine/model.safetensors").unlink()
    main(["explain", "cat.png", "--model", "hf:mine", "--weights", "random", "--method", "GradCAM"])
    assert lines(capsys)[0].startswith("hf:mine has random weights, and knows nothing")


@pytest.mark.parametrize(
    ("name", "file"),
    [("hf:mine", "mine_split"), ("hf:./mine/", "mine_split"), ("timm:test_resnet", None)],
)
@pytest.mark.usefixtures("folder")
def test_they_are_converted_and_the_files_explained(name, file, capsys):
    described = [] if name.startswith("hf:") else ["--size", "3", "48", "48", "--num_classes", "3"]
    main(["convert", name, "--images", "cat.png", *described])
    path = f"{file or 'test_resnet_split'}.safetensors"
    assert f"saved {path}" in lines(capsys)[-1]
    assert load(path).is_split
    main(["explain", "cat.png", "--model", path, "--method", "SplitLRP"])
    assert lines(capsys)[-1] == "saved explained.png: SplitLRP g-h"


@pytest.mark.usefixtures("folder")
def test_what_is_converted_is_not_overwritten():
    with pytest.raises(SystemExit, match=r"--out is 'mine/model\.safetensors', which is read as"):
        main(["convert", "hf:mine", "--out", "mine/model.safetensors"])
    assert load("hf:mine").classes == ("cat", "dog")


@pytest.mark.usefixtures("folder")
def test_they_are_compared():
    for index in range(20):
        for animal in ("cat", "dog"):
            path = Path("photos", animal, f"{index}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.chelsea()[index : index + 60, index : index + 60]).save(path)
    scale = {"mean": [0.5] * 3, "std": [0.5] * 3}
    described = {"size": [3, 48, 48], "classes": ["cat", "dog"], **scale}
    networks = {"timm": {"name": "timm:test_resnet", **described}, "face": {"name": "hf:mine"}}
    networks["timm"]["num_classes"] = 2
    config = {
        "run": {"name": "named"},
        "networks": networks,
        "data": {
            "class_path": "dmn.data.Folder",
            "init_args": {"root": "photos", "size": 48, "num_workers": 0, **scale},
        },
        "metrics": ["Sparseness"],
        "budget": {"validation": 1, "test": 1, "expensive": 1, "seconds": 20},
        "device": "cpu",
        "methods": {label: {"Gradient": None} for label in networks},
    }
    Path("named.yaml").write_text(yaml.safe_dump(config))
    main(["compare", "--config", "named.yaml"])
    scores = pd.read_parquet("runs/compare/named/scores.parquet")
    assert set(scores["network"]) == {"timm", "face"}


@pytest.mark.usefixtures("folder")
def test_a_comparison_takes_their_weights():
    state = load("hf:mine").model.state_dict()
    safetensors.torch.save_file(state, "same.safetensors")
    x = torch.rand(1, 3, 48, 48)
    own, same = Source("hf:mine").load("cpu"), Source("hf:mine", "same.safetensors").load("cpu")
    assert torch.equal(own.model(x).logits, same.model(x).logits)


MISTAKES = {
    ("timm:resnet1", ()): "close are .*timm:resnet18",
    ("timm:test_vit", ("--weights", "none")): r"no weights 'none'; timm:test_vit has r160_in1k",
    ("hf:none", ()): "none: there is no such folder; hf:FOLDER takes one",
    ("hf:mine", ("--weights", "none.pth")): r"none\.pth: give a \.safetensors file",
    ("hf:mine", ("--classes", "a")): "classes are 1, but it has 2 outputs",
    ("resnet1", ()): "timm:NAME, hf:FOLDER, or a classifier of torchvision's",
}


@pytest.mark.parametrize(("name", "options"), MISTAKES)
@pytest.mark.parametrize("command", [["explain", "cat.png", "--model"], ["convert"]])
@pytest.mark.usefixtures("folder")
def test_mistakes_are_told_in_one_line(command, name, options):
    with pytest.raises(SystemExit, match=MISTAKES[name, options]) as stopped:
        main([*command, name, *options])
    assert str(stopped.value).startswith("dmn: ")
    assert "\n" not in str(stopped.value)
