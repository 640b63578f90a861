"""Bounds in pyproject.toml are stated once, and kept by the constraints and what is installed."""

import sys
import tomllib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
STATED = [
    requirement
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, group)
    if requirement.name != PROJECT["name"]
]
DIRECT = {canonicalize_name(requirement.name): requirement.specifier for requirement in STATED}
MALICIOUS = {"pytorch-lightning": ("2.6.2", "2.6.3")}


def lower(specifier):
    (bound,) = [Version(clause.version) for clause in specifier if clause.operator == ">="]
    return bound


@pytest.fixture(scope="module")
def locked():
    """Return every version that the constraints hold, by name; a line each, with its marker."""
    found = defaultdict(set)
    for line in (ROOT / ".ci/constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            assert requirement.url is None, line
            found[requirement.name].add(Version(pin.version))
    return found


def test_every_dependency_is_stated_once():
    assert len(STATED) == len(DIRECT)


def test_what_builds_the_wheel_is_what_the_tests_build_it_with():
    (backend,) = map(Requirement, PYPROJECT["build-system"]["requires"])
    assert backend.specifier == DIRECT[backend.name]


@pytest.mark.parametrize("name", DIRECT)
def test_what_is_installed_keeps_the_bounds(name):
    installed = Version(version(name))
    assert installed in DIRECT[name]
    # `make test-oldest` would prove nothing of a bound below what it installs.
    assert Path(sys.prefix).name != ".venv-oldest" or installed == lower(DIRECT[name])


@pytest.mark.parametrize("name", DIRECT)
def test_the_constraints_keep_the_bounds(name, locked):
    assert locked[name]
    assert all(lower(DIRECT[name]) <= pin and pin in DIRECT[name] for pin in locked[name])


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_uploads_are_refused(name, locked):
    for upload in map(Version, MALICIOUS[name]):
        assert upload not in DIRECT[name]
        assert upload not in locked[name]
