"""The pages of the reference show every public name of their package, once."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))
SHOWN = re.compile(r"^::: dmn\.(\S+)$", re.M)


def public(module):
    """Return the names that a module exports or, where it does not say, the classes in it."""
    classes = inspect.getmembers(module, inspect.isclass)
    own = [name for name, value in classes if value.__module__ == module.__name__]
    return getattr(module, "__all__", own)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_in_groups_shows_every_public_name(page):
    text = page.read_text(encoding="utf-8")
    if "members: false" not in text or page.stem == "dmn":  # of the package: its text alone
        return
    shown = [path.split(".")[-1] for path in SHOWN.findall(text)]
    names = public(importlib.import_module(f"dmn.{page.stem}"))
    assert sorted(shown) == sorted([page.stem, *names])
