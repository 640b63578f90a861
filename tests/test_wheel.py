"""The built wheel holds all that `dmn fit` needs, away from the checkout."""

import itertools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dmn.cli.commands import COMMANDS
from dmn.io.resources import checkpoint_names, config_names

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=300)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_configs_and_checkpoints_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"dmn/configs/{name}.yaml" for name in config_names()} <= set(names)
    assert "dmn/py.typed" in names
    for kind, end in itertools.product(checkpoint_names(), ("safetensors", "json")):
        assert f"dmn/checkpoints/{kind}.{end}" in names
    assert {f"dmn/configs/compare/{name}.yaml" for name in config_names("compare")} <= set(names)
    assert {f"dmn/compare/report.{end}" for end in ("html.j2", "md.j2", "css", "js")} <= set(names)
    assert {f"dmn/cli/help/{command}.txt" for command in COMMANDS} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dmn"}


@pytest.fixture(scope="module")
def run_installed(wheel, tmp_path_factory):
    """Install the wheel; return what runs a script with it, in another folder."""
    target, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(target), "WANDB_SILENT": "true"}

    def run(script, *args):
        result = subprocess.run(
            [sys.executable, "-c", script, *args],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(str(target))
        return elsewhere

    return run


def test_the_installed_wheel_loads_what_is_shipped(run_installed):
    run_installed(
        "import dmn; print(dmn.__file__); network = dmn.load('mnist_paired'); "
        "import torch; assert network.model(torch.rand(2, 1, 28, 28)).shape == (2, 10)"
    )


@pytest.mark.slow
def test_the_installed_wheel_trains_from_any_folder(run_installed):
    script = "import dmn.cli.training; print(dmn.cli.training.__file__); dmn.cli.training.main()"
    elsewhere = run_installed(script, "fit", "--config", "debug")
    assert (elsewhere / "runs/debug/version_0/checkpoints/last.ckpt").is_file()
