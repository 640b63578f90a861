"""What surrounds the code: citation, hooks before a commit, workflows and templates of GitHub."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOOKS = ROOT / ".pre-commit-config.yaml"
GITHUB = [*(ROOT / ".github").rglob("*.yml")]


def read(path):
    return yaml.safe_load(path.read_text())


def hooks():
    return {hook["id"]: hook for repo in read(HOOKS)["repos"] for hook in repo["hooks"]}


@pytest.mark.parametrize(
    "path", [HOOKS, ROOT / "CITATION.cff", *GITHUB], ids=lambda path: path.name
)
def test_files_of_tools_are_yaml(path):
    assert isinstance(read(path), dict)


def test_the_citation_is_of_this_version():
    citation = read(ROOT / "CITATION.cff")
    assert citation["type"] == "software"
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert (citation["license"], citation["abstract"]) == (
        PROJECT["license"],
        PROJECT["description"] + ".",
    )
    titles = [reference["title"] for reference in citation["references"]]
    readme = (ROOT / "README.md").read_text()
    assert len(titles) == 2
    assert all(title in readme for title in titles)


def test_the_workflow_runs_what_a_developer_runs():
    (job,) = read(ROOT / ".github/workflows/test.yml")["jobs"].values()
    *actions, test = job["steps"]
    assert test == {"run": "make test"}
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", step["uses"]) for step in actions)
    assert job["strategy"]["matrix"]["python"][0] == PROJECT["requires-python"].removeprefix(">=")


def test_hooks_are_local_and_lint_as_make_does():
    assert {repo["repo"] for repo in read(HOOKS)["repos"]} == {"local"}
    make = (ROOT / "Makefile").read_text()
    for name in ("ruff check", "ruff format --check", "mypy"):
        assert f"$(BIN)/{name}" in make
        assert any(
            f"{hook['entry']} ".startswith(f".venv/bin/{name} ") for hook in hooks().values()
        )


SAMPLES = {  # a file that passes, and some that do not
    "trailing-whitespace": ("a b\n\nc\n", ["a \n", "a\t\nb\n", "a\r\n"]),
    "end-of-file": ("a\n\nb\n", ["a", "a\n\n"]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_hooks_of_patterns_find_what_they_are_named_after(name):
    """As pre-commit searches: line by line, or with --multiline in the whole file."""
    hook = hooks()[name]
    pattern = re.compile(hook["entry"])

    def found(text):
        pieces = [text] if "--multiline" in hook.get("args", ()) else text.splitlines(keepends=True)
        return any(pattern.search(piece) for piece in pieces)

    good, broken = SAMPLES[name]
    assert not found(good)
    assert all(map(found, broken))
    for folder, ends in ((ROOT / "tests", "py"), (ROOT / "dmn", "py"), (ROOT / "docs", "md")):
        for path in folder.rglob(f"*.{ends}"):
            assert not found(path.read_text()), path


def test_the_hook_of_large_files_names_them(tmp_path):
    (tmp_path / "small").write_bytes(bytes(1000))
    (tmp_path / "large").write_bytes(bytes(600 * 1024))
    (name,) = re.findall(r"sh -c '(.*)' --", hooks()["large-files"]["entry"])
    runs = {
        file: subprocess.run(["sh", "-c", name, "--", file], cwd=tmp_path, capture_output=True)
        for file in ("small", "large")
    }
    assert runs["small"].returncode == 0
    assert runs["large"].returncode == 1
    assert runs["large"].stdout == b"large\n"
