"""The recipes run as programs, and stay readable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[1] / "recipes"


def run(recipe, *args, folder):
    command = [sys.executable, "-W", "error", "-W", IGNORED, str(RECIPES / recipe), *args]
    environment = {**os.environ, "WANDB_SILENT": "true"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )


IGNORED = "ignore::FutureWarning"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    args = ["--epochs", "1", "--batches", "2"]
    return folder, run("train.py", *args, folder=folder)


def test_train(trained):
    folder, result = trained
    assert result.returncode == 0, result.stderr
    assert "epoch 1/1  train/loss" in result.stdout
    run_folder = folder / "runs/recipe/version_0"
    for left in ("metrics.csv", "checkpoints/best.ckpt", "heatmaps/splitlrp_epoch_000.png"):
        assert (run_folder / left).is_file(), left


def test_finetune(trained):
    folder, _ = trained
    checkpoint = "runs/recipe/version_0/checkpoints/last.ckpt"
    args = [checkpoint, "--epochs", "1", "--batches", "2", "--fold", "1"]
    result = run("finetune.py", *args, folder=folder)
    assert result.returncode == 0, result.stderr
    assert "loaded 52 tensors" in result.stdout
    assert (folder / "runs/recipe/version_1/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.py")), ids=lambda path: path.name)
def test_recipes_are_short_and_explain_themselves(recipe, tmp_path):
    assert len(recipe.read_text().splitlines()) <= 80
    result = run(recipe.name, "--help", folder=tmp_path)
    assert result.returncode == 0
    assert f"python recipes/{recipe.name}" in result.stdout
