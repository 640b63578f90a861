"""Bare names are of what is shipped, whatever lies in the working directory."""

from pathlib import Path

import pytest

from dmn.errors import UnknownNameError
from dmn.io.resources import CONFIGS, config_path, is_path, path_hint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.torture("a file in the working directory called {name}", "the shipped config is taken")
@pytest.mark.parametrize("name", ["debug", "mnist", "ablation/base"])
def test_a_bare_name_is_of_a_shipped_config(name, folder):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("run: {name: strange}\n")
    shipped = CONFIGS / f"{name}.yaml"
    assert config_path(name) == shipped
    assert config_path(f"./{name}") == folder / name
    assert config_path(str(folder / name)) == folder / name
    assert config_path(f"{name}.yaml") == shipped
    Path(f"{name}.yaml").write_text("run: {name: mine}\n")
    assert config_path(f"{name}.yaml") == Path(f"{name}.yaml")
    assert config_path(name) == shipped


def test_what_a_path_leads_to_is_the_same_when_it_is_asked_for_again(folder):
    """As by the further processes of a training, from the command line of the first."""
    for name in ("debug", "debug.yaml", "debug.old"):
        Path(name).write_text("run: {name: mine}\n")
        found = config_path(f"./{name}")
        assert found.samefile(name)
        assert config_path(str(found)) == found


@pytest.mark.torture("a file `mine`, asked for by that name", "refused; it says to write ./mine")
def test_a_file_without_a_suffix_is_offered(folder, happened):
    with pytest.raises(UnknownNameError, match="no config 'mine'") as told:
        config_path("mine")
    assert "./mine" not in str(told.value)
    Path("mine").write_text("run: {name: mine}\n")
    with pytest.raises(UnknownNameError, match=r"; write \./mine for") as told:
        config_path("mine")
    assert config_path("./mine") == folder / "mine"
    happened(str(told.value))


def test_paths_are_told_from_names(folder):
    assert all(map(is_path, ("./a", ".", "..", "../a", "a/b", "a/", "/a", "a.yaml", "a.pth")))
    assert not any(map(is_path, ("a", "resnet18", "DEFAULT", "best", "")))
    assert path_hint("a" * 300) == path_hint("a.yaml") == ""
