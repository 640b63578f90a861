"""What surrounds the code: citation, hooks before a commit, workflows and templates of GitHub."""

import re
import shutil
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
    newest = re.search(r"^## \[(\d[^]]*)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest.groups() == (citation["version"], str(citation["date-released"]))
    titles = [reference["title"] for reference in citation["references"]]
    readme = (ROOT / "README.md").read_text()
    assert len(titles) == 2
    assert all(title in readme for title in titles)


def test_the_workflow_runs_what_a_developer_runs():
    (job,) = read(ROOT / ".github/workflows/test.yml")["jobs"].values()
    *actions, test = job["steps"]
    assert test == {"run": "make test"}
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", step["uses"]) for step in actions)
    pythons = job["strategy"]["matrix"]["python"]
    assert pythons[0] == PROJECT["requires-python"].removeprefix(">=")
    assert [
        kind.rpartition(" ")[2] for kind in PROJECT["classifiers"] if " :: 3." in kind
    ] == pythons


RELEASED = (".ci/release", "pyproject.toml", "CITATION.cff", "CHANGELOG.md")


@pytest.fixture
def git(tmp_path):
    """Return git in a repository on main, with the files that a release is judged by."""

    def run(*args):
        subprocess.run(["git", *args], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / ".ci").mkdir()
    for name in RELEASED:
        shutil.copy(ROOT / name, tmp_path / name)
    run("init", "--quiet", "--initial-branch", "main")
    run("config", "user.name", "Somebody")
    run("config", "user.email", "somebody@example.org")
    run("config", "commit.gpgsign", "false")
    run("add", ".")
    run("commit", "--quiet", "--message", "All of it")
    return run


def release(folder, *args):
    return subprocess.run([".ci/release", *args], cwd=folder, capture_output=True, text=True)


@pytest.mark.usefixtures("git")
def test_a_release_that_can_be_made_is_told_by_its_tag(tmp_path):
    checked = release(tmp_path, "--check")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith(f"release: v{PROJECT['version']} can be made of ")


CHANGES = {  # a file, what is changed in it, and what the refusal names
    "citation": ("CITATION.cff", r"^version: .*", "version: 9.9.9", "CITATION.cff has version 9.9"),
    "changelog": ("CHANGELOG.md", r"^## \[\d", "## [9", "the newest heading of CHANGELOG.md"),
    "unreleased": ("CHANGELOG.md", r"\A", "## [Unreleased]\n", "is '## [Unreleased]', not"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_release_of_other_versions_is_refused(git, tmp_path, name):
    file, pattern, replacement, told = CHANGES[name]
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(re.sub(pattern, replacement, text, count=1, flags=re.M))
    git("commit", "--quiet", "--all", "--message", "Change it")
    refused = release(tmp_path, "--check")
    assert refused.returncode == 1
    assert told in refused.stderr


def test_a_release_is_refused_elsewhere_than_on_a_clean_main_without_its_tag(git, tmp_path):
    def refusal(*args):
        ended = release(tmp_path, *args)
        assert (ended.returncode, ended.stdout) == (1, "")
        return ended.stderr

    (tmp_path / "new").touch()
    assert "not committed" in refusal()
    (tmp_path / "new").unlink()
    git("switch", "--quiet", "--create", "topic")
    assert "the branch 'topic', not main" in refusal()
    git("switch", "--quiet", "main")
    assert "the only option is --check, not: --dry" in refusal("--dry")
    git("tag", f"v{PROJECT['version']}")
    assert f"the tag v{PROJECT['version']} exists" in refusal()


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
