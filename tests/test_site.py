"""The documentation as a site: it builds strictly, opens from disk, and figures have sources."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import launched

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
figures = importlib.util.module_from_spec(_spec)
sys.modules["figures"] = figures
_spec.loader.exec_module(figures)
FIGURES = figures.figures()
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)\s]+)\)|<img [^>]*>|<source [^>]*>")
# A row of a table with two numbers or more that have decimals, code left out: these were measured.
MEASURED = re.compile(r"^\|(?:.*\.\d){2}.*\|$", re.M)


def pictures(page):
    """Yield alternative text and path of each picture of a page."""
    for found in PICTURE.finditer(page.read_text(encoding="utf-8")):
        if found["path"]:
            yield found["alt"], found["path"]
        else:
            attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', found[0]))
            yield attributes.get("alt"), attributes.get("src", attributes.get("srcset"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir"]
    ended = subprocess.run(
        [*command, str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr
    return folder


def test_the_site_opens_from_disk_and_finds_words(site):
    with launched() as browser:
        page = browser.new_page()
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.locator(".md-search__input").click()
        page.locator(".md-search__input").press_sequentially("monotone streams")
        result = page.locator("a.md-search-result__link").first
        result.wait_for(timeout=60_000)
        result.click()
        page.wait_for_load_state()
        assert "monotone" in page.content()
        assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
        assert not faults


def test_no_page_asks_anything_of_the_network(site):
    """Scripts, styles, typefaces and pictures all lie within the site."""
    loads = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=\"https?:[^>]*>")
    for path in site.rglob("*.html"):
        found = loads.findall(path.read_text(encoding="utf-8"))
        assert not [tag for tag in found if 'rel="canonical"' not in tag], path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_picture_is_told_in_words_and_is_listed(page):
    listed = {(DOCS / path).resolve() for figure in FIGURES.values() for path in figure.pictures}
    for text, path in pictures(page):
        file = (page.parent / path.partition("#")[0]).resolve()
        assert file.is_file(), path
        assert file in listed, f"{file.name} is not in docs/figures.yaml"
        assert text is None or len(text) > 20, f"{path}: what does it show?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_measured_numbers_say_where_they_are_from(page):
    text = page.read_text(encoding="utf-8")
    assert set(figures.MARK.findall(text)) <= FIGURES.keys()
    if MEASURED.search(re.sub(r"`[^`]*`", "", text)) and "research" not in page.parts:
        assert figures.MARK.search(text), "a table of numbers, and no figure is named"


def test_every_figure_is_made_of_what_there_is():
    for figure in FIGURES.values():
        assert figure.command
        for path in figure.code:
            assert (ROOT / path).exists(), f"{figure.name}: {path}"
        for path in figure.pictures:
            assert (DOCS / path).is_file(), f"{figure.name}: {path}"


def test_figures_name_commits_of_this_history():
    if figures.git("rev-parse", "--is-shallow-repository").strip() == "true":
        return  # `make figures` needs the whole history, and so does the workflow
    for commit in {each for figure in FIGURES.values() for each in (figure.made_at, figure.since)}:
        assert re.fullmatch("[0-9a-f]{7,40}", commit)
        figures.git("merge-base", "--is-ancestor", commit, "HEAD")  # raises if it is not


@pytest.mark.parametrize("change", ["docstring", "code", "new file"])
def test_a_figure_is_older_than_its_code_where_more_than_words_have_changed(
    change, tmp_path, monkeypatch
):
    def git(*args):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text('def f():\n    """Old."""\n    return 1\n')
    git("init")
    git("add", ".")
    git("commit", "-m", "before")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    figures.files_at.cache_clear()
    figures.meaning.cache_clear()
    before = figures.git("rev-parse", "--short", "HEAD").strip()
    texts = {
        "docstring": ("a.py", 'def f():\n    """New."""\n    return 1  # as before\n'),
        "code": ("a.py", "def f():\n    return 2\n"),
        "new file": ("b.py", "x = 1\n"),
    }
    name, text = texts[change]
    (tmp_path / "code" / name).write_text(text)
    git("add", ".")
    git("commit", "-m", "after")
    changed = figures.Figure("f", "make", before, ["code"]).changed()
    assert changed == ([] if change == "docstring" else [f"code/{name}"])
    figures.files_at.cache_clear()
    figures.meaning.cache_clear()
