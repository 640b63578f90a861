"""Configs whose data is not bundled run on a few fabricated batches in the real format."""

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import effort
import fabricated_data
import pytest
import torch
import yaml

from dmn.cli.main import main
from dmn.explain import SplitLRP
from dmn.models import DifferenceOfMonotone, MonotoneResNet
from dmn.nn import assert_monotone, project

NARROW = "--model.net.g.width 4 --model.net.h.width 4 --data.num_workers 0 --data.batch_size 8 "
SMALL = {  # by what else than the number of batches is made small
    "mnist_full": "",
    "cifar10": NARROW,
    "imagenet": NARROW + "--data.size 64",
}
SHORT = (
    "--trainer.accelerator cpu --trainer.max_epochs 1 --trainer.num_sanity_val_steps 0 "
    "--trainer.limit_train_batches 4 --trainer.limit_val_batches 1 --quantus.images 2 "
    "--quantus.metrics [Sparseness] --heatmaps.images 1"
)
ALONE = "--trainer.devices 1 --trainer.strategy auto"
PAIR = "--trainer.sync_batchnorm false --trainer.devices 2 "
PAIR += "--quantus.every_n_epochs 0 --heatmaps.every_n_epochs 0"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    return tmp_path


def command(name, *options):
    root = Path("data").absolute()
    root.mkdir()
    getattr(fabricated_data, name.removesuffix("_full"))(root)
    words = f"fit --config {name} --data.root {root} {SHORT} {SMALL[name]}"
    return shlex.split(" ".join([words, *options]))


def last(name):
    return torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("name", effort.slow_except({"imagenet"}, SMALL))
def test_a_few_batches_train_and_explain(name, folder):
    main(command(name, ALONE))
    run = folder / "runs" / name / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    state = last(name)
    assert state["global_step"] == 4 // config["trainer"]["accumulate_grad_batches"]
    assert all(value.dtype != torch.bfloat16 for value in state["state_dict"].values())
    rows = (run / "metrics.csv").read_text().splitlines()
    (row,) = csv.DictReader(rows)
    assert float(row["constraint/min_weight"]) >= 0
    assert float(row["quantus/unscored"]) == 0
    assert 0 < float(row["train/loss"]) < 100
    assert len(list(run.glob("heatmaps/*.png"))) == len(config["model"]["explainers"])


def test_batch_norm_in_step_is_constrained_and_explained_as_any():
    net = DifferenceOfMonotone(*(MonotoneResNet(6, 4, (1, 1), "tiny") for _ in "gh")).eval()
    x = torch.rand(2, 3, 8, 8)
    expected = SplitLRP(net, stream="g")(x)
    synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in synced.modules())
    assert torch.equal(SplitLRP(synced, stream="g")(x), expected)
    norm = synced.g.net.stage1_1.norm
    norm.weight.data.fill_(-1)
    project(synced)
    assert_monotone(synced)


@pytest.mark.slow
def test_two_processes_share_the_work(folder):
    """DDP as the config has it, by gloo; batch norm in step is for GPUs only."""
    args = command("imagenet", PAIR)
    result = subprocess.run(
        [str(Path(sys.executable).with_name("dmn")), *args],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert "All distributed processes registered. Starting with 2 processes" in result.stderr
    assert result.stdout.count("epoch 1/1") == 1
    assert last("imagenet")["global_step"] == 1
