"""The reference of the site is complete: all public names are described, all classes are shown.

Public is what a package exports by `__all__`, and what `dmn` and `dmn.errors` define. The examples
of a page know `dmn`, `torch`, `torch.nn` as `nn`, and all that its package exports.
"""

import ast
import doctest
import importlib
from pathlib import Path
from unittest.mock import patch

import griffe
import pytest

import dmn

ROOT = Path(__file__).parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def exported(package):
    """Return what a file exports, without importing it: by `__all__`, else what it defines."""
    path = ROOT / "dmn" / package
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [name for name in defined if not name.startswith("_")]


# All have pages but `cli`, which is no library, and `io`, of which nothing is public.
PACKAGES = sorted(
    {path.parent.name for path in ROOT.glob("dmn/*/__init__.py")} - {"cli", "io"} | {"", "errors"}
)
NAMES = [f"{package}.{name}".strip(".") for package in PACKAGES for name in exported(package)]


@pytest.fixture(scope="module")
def documented():
    """Return what the site reads: names with their docstrings, of classes and of constants."""
    return griffe.load("dmn", search_paths=[ROOT])


def find(name, documented):
    """Return what a public name stands for, where a module has the same name too."""
    found = documented[name]
    return found[name.rpartition(".")[2]] if found.is_module else found


def sections(name, documented, kind):
    docstring = find(name, documented).docstring
    parsed = docstring.parse("google", warnings=False) if docstring else []
    return [section for section in parsed if section.kind.value == kind]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_have_a_docstring(name, documented):
    assert sections(name, documented, "text"), f"dmn.{name} has no docstring"


@pytest.mark.parametrize("name", NAMES)
def test_classes_have_an_example(name, documented):
    if find(name, documented).is_class:
        shown = [part for each in sections(name, documented, "examples") for part in each.value]
        assert any(part.startswith(">>>") for _, part in shown), (
            f"dmn.{name} has no section `Examples:` with lines of `>>>`; the site shows a section "
            "`Example:` as text"
        )


@pytest.mark.parametrize("name", NAMES)
def test_examples_show_what_happens(name, documented):
    docstring = find(name, documented).docstring
    package = importlib.import_module(f"dmn.{name.rpartition('.')[0]}".strip("."))
    import torch

    from dmn.explain.registry import _registered
    from dmn.rules.table import RULES

    known = {"dmn": dmn, "torch": torch, "nn": torch.nn}
    known |= {each: getattr(package, each) for each in exported(name.rpartition(".")[0])}
    text = docstring.value if docstring else ""
    test = doctest.DocTestParser().get_doctest(text, known, name, None, None)
    threads, told = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), patch.dict(_registered), patch.dict(RULES):
            torch.manual_seed(0)
            doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=told.append)
    finally:
        torch.set_num_threads(threads)
    assert not told, "".join(told)
