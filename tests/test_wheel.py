"""The built wheel holds all that `dmn fit` needs, away from the checkout."""

import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
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


def test_the_readme_of_the_wheel_points_at_no_file_beside_it(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    about = BytesParser().parsebytes(archive.read(metadata))
    readme = about.get_payload()
    assert about["Description-Content-Type"] == "text/markdown"
    assert readme.startswith("# dmn\n")
    assert "```" in readme
    prose = re.sub(r"^```.*?^```$", "", readme, flags=re.M | re.S)
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)|<img|<picture", prose)


README = """\
[![Icon](https://example.org/icon.png)](https://example.org)
[![A picture](docs/small.png)](docs/large.png)
<picture>
  <source media="(prefers-color-scheme: dark)" srcset="docs/dark.png">
  <img alt="A picture" src="docs/light.png">
</picture>
![A picture](docs/picture.png "titled")
See [the *page*](docs/page.md#part), [the site](https://example.org) and [below](#below).
```python
maps[0](images)
```
"""


def test_relative_links_become_text_and_relative_pictures_are_left_out():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.standalone(README) == (
        "[![Icon](https://example.org/icon.png)](https://example.org)\n"
        "See the *page*, [the site](https://example.org) and [below](#below).\n"
        "```python\nmaps[0](images)\n```\n"
    )


@pytest.mark.slow
def test_the_sdist_holds_what_tests_and_documentation_need_and_nothing_of_this_machine(tmp_path):
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=300)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = [member.name.partition("/")[2] for member in archive]
    assert {"README.md", "Makefile", ".ci/constraints.txt", "tests/test_wheel.py"} <= set(names)
    made = ("runs/", "wandb/", "site/", "dist/", ".venv", ".cache/", ".git/")
    assert not [name for name in names if name.startswith(made) or "__pycache__" in name]


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
