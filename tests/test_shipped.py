"""Shipped networks: what their cards say, and that every command takes their names."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import dmn
from dmn.cli.main import main
from dmn.data import MNIST
from dmn.hub import Network, save_network
from dmn.hub.building import build
from dmn.io.resources import CHECKPOINTS, CONFIGS, checkpoint_names
from dmn.train.probe_callbacks import SCORED

LARGEST = 30e6  # bytes, all together
FIELDS = "name net training explainers data classes size mean std epochs seed accuracy quantus"
FIELDS += " command note versions sha256"
QUICK = "--trainer.num_sanity_val_steps 0 --quantus.every_n_epochs 0 --heatmaps.every_n_epochs 0"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Ship the network of the config `debug`, untrained, and only that."""
    monkeypatch.chdir(tmp_path)
    net = yaml.safe_load((CONFIGS / "debug.yaml").read_text())["model"]["net"]
    classes = tuple("0123456789")
    card = {"net": net}
    network = Network("tiny", build(net), classes, (1, 28, 28), None, None, torch.tensor, card)
    path = save_network(network, tmp_path / "shipped")
    for module in ("dmn.io.resources", "dmn.hub.shipped"):
        monkeypatch.setattr(f"{module}.CHECKPOINTS", path.parent)
    return path


def run(command, *more):
    main(shlex.split(command) + list(more))


def refused(command):
    with pytest.raises(SystemExit) as stopped:
        run(command)
    return str(stopped.value.code)


@pytest.mark.parametrize("name", checkpoint_names())
def test_cards_say_how_a_network_was_made_and_how_good_it_is(name):
    card = json.loads((CHECKPOINTS / f"{name}.json").read_text())
    assert set(FIELDS.split()) <= card.keys()
    assert card["name"] == name
    assert {"python", "dmn", "torch", "pytorch-lightning", "quantus"} <= card["versions"].keys()
    low, high = card["accuracy"]["interval"]
    assert low <= card["accuracy"]["test"] <= high
    scores = card["quantus"]["scores"]
    assert card["explainers"].keys() | {"Random"} <= scores.keys()
    assert card["explainers"]
    for method in scores.values():
        assert list(method) == SCORED
        assert all(each["n"] <= card["quantus"]["images"] for each in method.values())


def test_all_together_are_small():
    assert sum(path.stat().st_size for path in CHECKPOINTS.glob("*.*")) <= LARGEST


def test_the_package_is_light_and_loads_by_name(tiny):
    script = "import dmn, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
    assert dmn.load("tiny").name == "tiny"


def test_it_is_tested_and_validated_with_its_own_weights(tiny):
    data = MNIST()
    data.setup("test")
    loaders = {"val": data.val_dataloader(), "test": data.test_dataloader()}
    for job, (stage, loader) in zip(("validate", "test"), loaders.items(), strict=True):
        limit = f"--trainer.limit_{stage}_batches 1"
        run(f"{job} --config debug --ckpt_path tiny --seed_everything 5 {limit} {QUICK}")
        text = Path(f"runs/debug/{job}/version_0/metrics.csv").read_text()
        (row,) = csv.DictReader(text.splitlines())
        x, y, _ = next(iter(loader))
        right = (dmn.load("tiny").model(x).argmax(dim=1) == y).float().mean()
        assert float(row[f"{stage}/acc"]) == pytest.approx(float(right))


def test_finetuning_starts_from_it_and_resuming_does_not(tiny):
    rate = "--model.optimizer torch.optim.SGD --model.optimizer.lr 0"
    run(f"finetune --config debug --init_from tiny {rate} --model.lr_scheduler null {QUICK}")
    last = torch.load("runs/debug/version_0/checkpoints/last.ckpt", weights_only=True)
    weights = dict(dmn.load("tiny").model.named_parameters())
    assert all(torch.equal(last["state_dict"][f"net.{key}"], weights[key]) for key in weights)
    assert "by `dmn finetune --init_from tiny`" in refused("fit --config debug --ckpt_path tiny")
    assert "tony: there is no such file; shipped are tiny" in refused(
        "finetune --config debug --init_from tony"
    )


def test_another_network_than_the_configs_is_not_tested(tiny):
    deeper = "--model.net.g.units 2"
    told = refused(f"test --config debug --ckpt_path tiny {deeper} {QUICK}")
    assert "tiny is another network than the config's" in told
    assert "missing: g.net.stage1_2" in told
    other = "--model.net.h.activation convex_concave"
    told = refused(f"test --config debug --ckpt_path tiny {other} {QUICK}")
    assert "tiny is another network than the config's: its weights fit, but units" in told


@pytest.mark.parametrize("command", ["finetune --init_from", "test --ckpt_path"])
def test_damaged_weights_are_never_used(tiny, command):
    content = bytearray(tiny.read_bytes())
    content[-3] ^= 1
    tiny.write_bytes(content)
    name, option = command.split()
    assert "damaged, by the hash" in refused(f"{name} --config debug {option} tiny {QUICK}")


def test_it_explains_pictures_and_is_split_already(tiny, capsys):
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save("a.png")
    run("explain a.png --model tiny --method SplitLRP")
    assert "saved explained.png" in capsys.readouterr().out
    assert "tiny is a difference g - h as it is" in refused("convert tiny")
