"""The recipes run as programs, and explain themselves."""

import argparse
import csv
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from io import StringIO
from math import isfinite
from pathlib import Path
from statistics import median

import pytest
import torch

from dmn import load
from dmn.cli.main import main

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = sorted(path.name for path in RECIPES.glob("*.py"))


def program(recipe, *args, folder, **variables):
    """Run a recipe as a user does."""
    command = [sys.executable, "-W", "error", "-W", IGNORED, str(RECIPES / recipe), *args]
    environment = {**os.environ, "WANDB_SILENT": "true", **variables}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )


IGNORED = "ignore::FutureWarning"
TINY = ["--epochs", "1", "--batches", "2"]


def run(recipe, *args):
    """Run a recipe in this process, whose libraries are imported already."""
    runpy.run_path(str(RECIPES / recipe))["main"](list(args))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    with chdir(folder), redirect_stdout(StringIO()) as output:
        run("train.py", *TINY)
    return folder, output.getvalue()


def test_train(trained):
    folder, output = trained
    assert "epoch 1/1  train/loss" in output
    run_folder = folder / "runs/recipe/version_0"
    for left in ("metrics.csv", "checkpoints/best.ckpt", "heatmaps/splitlrp_epoch_000.png"):
        assert (run_folder / left).is_file(), left


def test_finetune(trained, monkeypatch, capsys):
    folder, _ = trained
    monkeypatch.chdir(folder)
    checkpoint = "runs/recipe/version_0/checkpoints/last.ckpt"
    args = [checkpoint, "--epochs", "1", "--batches", "2", "--per-class", "8"]
    run("finetune.py", *args)
    assert "loaded 48 tensors; replaced: g.net.head.weight" in capsys.readouterr().out
    assert (folder / "runs/recipe/version_1/checkpoints/best.ckpt").is_file()


@pytest.mark.slow
def test_transfer(trained, monkeypatch, capsys):
    folder, _ = trained
    monkeypatch.chdir(folder)
    checkpoint = "runs/recipe/version_0/checkpoints/last.ckpt"
    tiny = ["--epochs", "1", "--per-class", "8", "--rates", "0.01", "--seeds", "2"]
    run("transfer.py", checkpoint, *tiny)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [line.strip("| ").split(" | ") for line in table[2:]]
    assert [row[0] for row in rows] == ["scratch", "digits"]
    for _, validated, steps, tested, spread in rows:
        assert 0 < float(validated) < 1
        assert int(steps) == 2
        assert 0 < float(tested) < 1
        assert float(spread) >= 0


@pytest.mark.slow
def test_benchmark(tmp_path):
    tiny = ["--models", "resnet18", "--size", "32", "--batches", "1", "--repeats", "2"]
    tiny += ["--depths", "resnet18", "--sizes", "32", "--growth-batches", "1"]
    # Threads of one process that wait for each other are slow where others keep the cores busy.
    result = program("benchmark.py", *tiny, folder=tmp_path, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    assert "[10/10] memory, resnet18, 32 px, batch 1: literal float64" in result.stdout
    folder = tmp_path / "runs/benchmark"
    with (folder / "benchmark.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    splits = {"gradient", "SplitGrad", "SplitCAM", "SplitLRP"}
    others = {"zennit EpsilonPlus", "zennit Gamma", "captum Grad-CAM", "literal float64"}
    others.add("onnxruntime SplitLRP")
    assert rows.keys() == splits | others
    plain = rows["gradient"]
    for method, row in rows.items():
        times, plain_times = (json.loads(row[name]) for name in ("rounds", "gradient_rounds"))
        assert len(times) == len(plain_times) == (1 if method == "literal float64" else 2)
        if len(times) == 2:
            assert plain_times == json.loads(plain["rounds"])
        quotients = [own / other for own, other in zip(times, plain_times, strict=True)]
        assert float(row["seconds"]) == pytest.approx(median(times))
        assert float(row["seconds_ratio"]) == pytest.approx(median(quotients))
        if method == "onnxruntime SplitLRP":  # whose memory is not measured
            assert not row["peak_mib"]
            continue
        for unit in ("above_mib", "peak_mib"):
            assert float(row[f"{unit}_ratio"]) == pytest.approx(
                float(row[unit]) / float(plain[unit])
            )
        for unit in ("seconds", "above_mib", "peak_mib"):
            for value in (float(row[unit]), float(row[f"{unit}_ratio"])):
                assert isfinite(value), (method, unit)
                # at 32 pixels a call needs less than the pages that come and go by themselves
                assert value > 0 or (unit == "above_mib" and value > -1), (method, unit)
    assert all(method in result.stdout for method in rows)
    assert (folder / "benchmark.png").is_file()
    text = (folder / "benchmark.md").read_text()
    assert "| growth by network" in text
    assert all(package in text for package in ("torch 2.", "zennit 0.", "captum 0.", "Python 3."))


@pytest.mark.parametrize("recipe", NAMES)
def test_recipes_explain_themselves(recipe, monkeypatch, capsys):
    parsers = []
    parse_args = argparse.ArgumentParser.parse_args

    def seen(parser, args):
        parsers.append(parser)
        return parse_args(parser, args)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", seen)
    with pytest.raises(SystemExit) as stopped:
        run(recipe, "--help")
    assert stopped.value.code == 0
    assert f"python recipes/{recipe}" in capsys.readouterr().out
    (parser,) = parsers
    for action in parser._actions:
        assert action.help, f"{action.dest} is not described"


@pytest.mark.slow
def test_train_is_a_program(tmp_path):
    result = program("train.py", *TINY, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "epoch 1/1  train/loss" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NAMES)
def test_recipes_are_programs(recipe, tmp_path):
    result = program(recipe, "--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"python recipes/{recipe}" in result.stdout


@pytest.mark.slow  # cli/test_compare_command.py compares, too
def test_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["--images", "2", "--metrics", "Sparseness", "PointingGame"]
    run("compare.py", *args)
    assert "see runs/compare/recipe/report.html" in capsys.readouterr().out
    with (tmp_path / "runs/compare/recipe/summary.csv").open() as file:
        rows = {(row["entry"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(rows) == (6 + 6) * 2
    assert all(isfinite(float(row["mean"])) for row in rows.values())


def test_split(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("split.py", "--epochs", "1", "--out", "here")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "|f - original|" in line)
    assert line.endswith("  0, bit-equal")
    assert (tmp_path / "here/maps.png").is_file()
    assert (tmp_path / "here/split.safetensors").is_file()


def test_tradeoff(tmp_path, monkeypatch):
    """On what a fine-tuning for explanation leaves, by the shipped config."""
    monkeypatch.chdir(tmp_path)
    short = "--trainer.max_epochs 1 --trainer.num_sanity_val_steps 0 --heatmaps.every_n_epochs 0"
    short += " --quantus.images 4 --quantus.metrics [RelevanceRankAccuracy]"
    main(shlex.split(f"fit --config debug --config finetune/explain {short}"))
    left = Path("runs/debug/version_0")
    (row,) = csv.DictReader((left / "metrics.csv").read_text().splitlines())
    assert 0 < float(row["train/penalty"]) < 1
    tiny = "--weights 0 1 --seeds 2 --steps 1 --images 4 --out here"
    tradeoff = runpy.run_path(str(RECIPES / "tradeoff.py"))["main"]
    tradeoff([str(left / "checkpoints/best_explained.ckpt"), *tiny.split()])
    rows = list(csv.DictReader(Path("here.csv").read_text().splitlines()))
    keys = [(row["part"], float(row["weight"]), row["seed"]) for row in rows]
    assert keys[:4] == [("val", weight, seed) for weight in (0, 1) for seed in "01"]
    assert keys[4:6] == [("test", 0, seed) for seed in "01"]
    assert all(isfinite(float(row["RelevanceRankAccuracy"])) for row in rows)
    assert Path("here.png").is_file()


def test_certainty(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("certainty.py", "mnist_certified", "--eps", "0", "0.02", "--images", "2", "--out", "here")
    (row,) = csv.DictReader(Path("here.csv").read_text().splitlines())
    assert 0.9 < float(row["0.02"]) <= float(row["0.0"])
    assert all(isfinite(float(row[name])) for name in ("Sparseness", "MaxSensitivity"))
    assert Path("here.png").is_file()
    with pytest.raises(SystemExit):
        run("certainty.py", "mnist_certified", "--at", "0.07")
    assert "--at is 0.07; give one of --eps" in capsys.readouterr().err


def test_finetuning_by_mosaics_by_noise_and_by_binary_cross_entropy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = "--trainer.max_epochs 1 --trainer.num_sanity_val_steps 0 --heatmaps.every_n_epochs 0"
    short += " --quantus.every_n_epochs 0"
    main(shlex.split(f"fit --config debug {short}"))
    layer = "--model.terms.mosaics.init_args.layer input"  # the network of debug has no front
    layer += " --model.terms.distillation.init_args.teacher mnist_paired"
    start = "finetune --config debug --init_from runs/debug/version_0/checkpoints/last.ckpt"
    robust = "--config finetune/mosaics --config finetune/robust"
    scored = short.replace("--quantus.every_n_epochs 0", "--quantus.images 8")
    main(shlex.split(f"{start} {robust} {layer} {scored}"))
    main(shlex.split(f"{start} --config finetune/binary {short}"))
    weights = [
        load(f"runs/debug/version_{i}/checkpoints/last.ckpt").model.state_dict() for i in range(3)
    ]
    (row,) = csv.DictReader(Path("runs/debug/version_1/metrics.csv").read_text().splitlines())
    assert 0 < float(row["train/mosaics"]) < 1
    assert float(row["train/sensitivity"]) > 0
    assert Path("runs/debug/version_1/checkpoints/best_explained.ckpt").is_file()
    changed = {
        name.split(".")[2]
        for name, values in weights[0].items()
        if not torch.equal(values, weights[2][name])
    }
    assert changed == {"head"}


def test_learn_bounds(capsys):
    learn_bounds = runpy.run_path(str(RECIPES / "learn_bounds.py"))["main"]
    learn_bounds(["--images", "4", "--epochs", "1", "--objectives", "mask"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == [
        *("RelevanceRankAccuracy", "RelevanceMassAccuracy", "PixelFlipping", "Sparseness")
    ]
    before, after = float(rows[1][2]), float(rows[1][3])
    assert after > before  # of the mass within masks, which is what is learnt


def test_throughput(capsys):
    throughput = runpy.run_path(str(RECIPES / "throughput.py"))["main"]
    throughput(["--model", "conv", "--batch", "4", "--steps", "2", "--bf16"])
    told = capsys.readouterr().out
    ratio, share = re.search(r"conv: .* ([\d.]+) times; projection ([\d.]+)%", told).groups()
    assert float(ratio) > 1
    assert 0 < float(share) < 100


def test_probe(tmp_path):
    """Probes see means and maxima; higher blocks of a trained network are read better."""
    probe = runpy.run_path(str(RECIPES / "probe.py"))
    model = load("mnist_front").model
    x, y = torch.rand(3, 1, 28, 28), torch.arange(3)
    seen = probe["features"](model, [(x, y)], 1)
    front = model.front(x)
    expected = torch.cat([front.mean((2, 3)), front.amax((2, 3))], 1)
    torch.testing.assert_close(seen["front"], expected)
    assert torch.equal(seen["right"], model(x).argmax(1) == y)
    probe["main"](["mnist_front", "--epochs", "1", "--out", str(tmp_path / "probe.csv")])
    rows = list(csv.DictReader((tmp_path / "probe.csv").read_text().splitlines()))
    accuracy = {row["block"]: float(row["accuracy"]) for row in rows}
    assert list(accuracy) == ["whole", "front", "stem", "stage1_1", "pool1", "stage2_1"]
    assert 0.2 < accuracy["front"] < accuracy["stage1_1"] < accuracy["whole"]
