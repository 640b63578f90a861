"""Every name that docs/concepts/notation.md gives for a letter exists in the code that it names."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "notation.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| letter"))
]


def resolve(path):
    """Return the module that a dotted path begins with, and the attribute that it names."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        found = module
        for name in parts[length:]:
            found = getattr(found, name)
        return module, found
    raise AssertionError(f"no module in {path}")


def test_each_letter_is_explained_once():
    letters = [letter for row in ROWS for letter in row[0].split(", ")]
    assert len(letters) == len(set(letters))
    assert {"x", "f", "g", "h", "u", "s", "p", "n", "W", "V", "F", "B", "A", "q", "a"} <= {*letters}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_names_exist_where_the_table_says(row):
    assert len(row) == 5, "letter, meaning, formula, in code, defined in"
    (path,) = re.findall(r"`([^`]+)`", row[4])
    module, found = resolve(path)
    home = inspect.getmodule(found) or module
    source = inspect.getsource(home)
    for name in re.findall(r"`([^`]+)`", row[3]):
        last = name.rpartition(".")[2]
        assert re.search(rf"\b{last}\b", source), f"{name} is not in {home.__name__}"
