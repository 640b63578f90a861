"""The first steps of ten users, as the pages print them, with a map that must be right.

Each story writes what its user has, then follows one section of a page: its files are written and
its commands are run as printed. In all of them a planted square alone tells the class, so SplitLRP
must find it.
"""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import safetensors.torch
import timm
import torch
from PIL import Image
from planted_squares import COLOURS, DARK, GREYS, batch, fit, share, write_folder, write_picture
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from dmn.cli.main import main

ROOT = Path(__file__).parents[1]
IMAGES, NETWORK, README = (
    ROOT / path for path in ("docs/how_to/own_images.md", "docs/how_to/own_network.md", "README.md")
)
BACKGROUND = 0.25  # nothing but the square is brighter, in any channel
FOUND = 0.8  # of the positive relevance


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder, and forget the modules that a story writes into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    torch.manual_seed(0)
    yield
    for name in tmp_path.glob("*.py"):
        sys.modules.pop(name.stem, None)


def blocks(page, heading):
    """Return language and content of the code blocks of a section."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page.read_text(), re.M | re.S)
    return re.findall(r"^```(\w+)\n(.*?)^```$", section[1], re.M | re.S)


def write_files(page, heading):
    """Write the files that a section shows, whose first line is their name."""
    for language, content in blocks(page, heading):
        if language == "python" and (name := re.match(r"# (\w+\.py)\n", content)):
            Path(name[1]).write_text(content)


def commands(page, heading):
    """Return the commands that a section shows, as lists of words."""
    lines = [
        line
        for language, content in blocks(page, heading)
        if language == "bash"
        for line in content.replace("\\\n", " ").splitlines()
    ]
    assert lines
    return [shlex.split(line) for line in lines]


def follow(page, heading, skip=0):
    """Run the commands of a section, as printed, but for the first ones."""
    for program, *words in commands(page, heading)[skip:]:
        if program == "dmn":
            main(words)
        else:
            assert program == "python"
            runpy.run_path(*words)


def assert_found(target):
    """Check the class that was explained, and that the map finds the square."""
    with np.load("maps.npz") as maps:
        assert maps["target"].tolist() == [target]
        stream = "g" if "SplitLRP g" in maps else "g-h"  # of a trained pair, of a split network
        (image,), ((values,),) = maps["image"], maps[f"SplitLRP {stream}"]
    assert share(values, image.max(axis=0) > BACKGROUND) >= FOUND
    assert Path("explained.png").is_file()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run the README's two commands as processes, which end with 0."""
    folder = tmp_path_factory.mktemp("photos")
    write_folder(folder / "photos", COLOURS, 20, 32, 32)
    write_picture(folder / "photo.png", "red", 32, 32)
    torch.save(models.resnet18(num_classes=3).state_dict(), folder / "theirs.pth")
    for program, *words in commands(README, "Your own images, your own network"):
        command = [str(Path(sys.executable).with_name(program)), *words]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    (folder / "explained.png").unlink()
    return folder


def test_photos_in_folders(trained, monkeypatch):
    monkeypatch.chdir(trained)
    write_picture("new.png", "green", 32, 32, brightest=DARK)
    readme, page = commands(README, "Your own images, your own network"), "A folder of photos"
    assert commands(IMAGES, page)[0] == readme[0]  # which has been run
    follow(IMAGES, page, skip=1)
    assert_found(list(COLOURS).index("green"))


@pytest.mark.slow  # test_own_images.py does so in fewer epochs
def test_what_follows_on_a_training(trained, monkeypatch):
    monkeypatch.chdir(trained)
    follow(IMAGES, "Test, resume and fine-tune")
    assert Path("runs/tuned/version_0/checkpoints/best.ckpt").is_file()


@pytest.mark.slow  # grey scans of this size are explained below, and photos are trained on above
def test_grey_scans_of_two_classes():
    write_folder("scans", GREYS, 16, 100, 80, "L")
    write_picture("scan.png", "bright", 100, 80, "L", DARK)
    follow(IMAGES, "Grey images")
    assert_found(0)


@pytest.fixture(scope="module")
def theirs():
    """Return the weights of a ResNet18 that somebody else has trained."""
    torch.manual_seed(0)
    return fit(models.resnet18(num_classes=3), list(COLOURS), 32, 32).state_dict()


def test_a_torchvision_network_with_the_weights_of_somebody_elses_training(theirs):
    state = {f"module.{key}": value for key, value in theirs.items()}
    torch.save({"model_state_dict": state, "epoch": 30}, "theirs.pth")
    write_picture("photo.png", "red", 64, 64)
    follow(NETWORK, "A network of torchvision's")
    assert_found(list(COLOURS).index("red"))


@pytest.mark.slow  # smaller ones are explained in cli/test_named_networks.py
def test_networks_of_timm_and_hugging_face():
    net = fit(timm.create_model("resnet10t", num_classes=3), list(COLOURS), 48, 48)
    torch.save(net.state_dict(), "theirs.pth")
    classes = {"id2label": dict(enumerate(COLOURS)), "label2id": {}}
    size = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    config = ResNetConfig(layer_type="basic", **size, **classes)
    own = fit(
        ResNetForImageClassification(config),
        list(COLOURS),
        48,
        48,
        loss=lambda output, labels: nn.functional.cross_entropy(output.logits, labels),
    )
    own.save_pretrained("mine")
    ViTImageProcessor(size={"height": 48, "width": 48}, do_normalize=False).save_pretrained("mine")
    write_picture("photo.png", "green", 48, 48)
    for _, *words in commands(NETWORK, "A network of timm or Hugging Face"):
        main(words)
        assert_found(list(COLOURS).index("green"))


def test_a_network_with_its_own_code_of_grey_scans_that_are_not_square():
    write_files(NETWORK, "A network with its own code")
    net = fit(
        importlib.import_module("nets").make(2), ["smooth", "striped"], 50, 40, 100, channels=1
    )
    torch.save(net.state_dict(), "mine.pth")
    write_picture("scan.png", "striped", 100, 80, "L")
    follow(NETWORK, "A network with its own code")
    assert_found(1)


def test_a_lightning_module():
    write_files(NETWORK, "A LightningModule")
    module = importlib.import_module("lit").Classifier()
    x, labels = batch(np.random.default_rng(0), list(COLOURS), 96, 48, 48)
    trainer = pl.Trainer(max_epochs=10, accelerator="cpu", barebones=True)
    trainer.fit(module, DataLoader(TensorDataset(x, labels), 32, shuffle=True))
    trainer.save_checkpoint("lit.ckpt")
    write_picture("photo.png", "blue", 48, 48)
    follow(NETWORK, "A LightningModule")
    assert_found(0)


def fit_shown(heading, factory, names, loss):
    """Write the files of a section, and fit the network that they make, `module:name`."""
    write_files(NETWORK, heading)
    module, _, name = factory.partition(":")
    net = getattr(importlib.import_module(module), name)()
    return fit(net, names, 48, 48, loss=loss).state_dict()


def test_a_network_in_the_manner_of_hugging_face():
    heading = "A network that returns more than logits"

    def loss(output, labels):
        return nn.functional.cross_entropy(output.logits, labels)

    state = fit_shown(heading, "styled:ForImageClassification", list(COLOURS), loss)
    safetensors.torch.save_file(state, "styled.safetensors")
    write_picture("photo.png", "green", 48, 48)
    follow(NETWORK, heading)
    assert_found(1)


def test_a_single_logit():
    heading = "A single logit"

    def loss(logits, labels):
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())

    torch.save(fit_shown(heading, "binary:Detector", ["blue", "red"], loss), "binary.pth")
    write_picture("photo.png", "red", 48, 48)
    follow(NETWORK, heading)
    assert_found(0)


def bursts(count, seed):
    """Return signals (count, 2, 128) with a burst of one of two frequencies, its place, labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.02, (count, 2, 128)).astype(np.float32)
    labels, places = np.arange(count) % 2, rng.integers(0, 96, count)
    for signal, label, place in zip(x, labels, places, strict=True):
        signal[:, place : place + 32] += np.sin(np.arange(32) * (0.3, 1.2)[label])
    return x, places, torch.from_numpy(labels)


def test_signals():
    write_files(NETWORK, "Signals")
    source = Path("signals.py").read_text()
    (definition,) = re.findall(r"^net = (.*?)\)\.eval\(\)$", source, re.M | re.S)
    net = eval(f"{definition})", {"nn": nn})  # the network of the page, to be trained here
    x, _, labels = bursts(64, 0)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.from_numpy(x)), labels).backward()
        optimizer.step()
    torch.save(net.state_dict(), "signals.pth")
    x, places, labels = bursts(4, 1)
    np.save("signals.npy", x)
    follow(NETWORK, "Signals")
    assert (net.eval()(torch.from_numpy(x)).argmax(1) == labels).all()
    for (values,), place in zip(np.load("maps.npy"), places, strict=True):
        assert share(values, slice(place, place + 32)) >= FOUND


def test_a_converted_file(theirs):
    torch.save(theirs, "theirs.pth")
    # Not "blue", which this network takes for granted: of its logit biases have all.
    write_picture("photo.png", "red", 64, 64)
    follow(NETWORK, "Convert it")
    assert_found(list(COLOURS).index("red"))
    ((_, snippet),) = blocks(NETWORK, "In Python")
    with Image.open("photo.png") as picture:
        exec(snippet, namespace := {"picture": picture})
    assert namespace["maps"].shape == namespace["cam"].shape == (1, 1, 64, 64)
