"""The notebooks of the documentation run offline, and give what is saved in them.

Numbers may differ a little between machines. Cells whose metadata says `varies` show results of a
training: of these only the words are compared. `python tests/notebooks.py` executes all anew.
"""

import math
import re

import nbformat
import pytest
from effort import slow_except
from notebooks import NOTEBOOKS, execute

NUMBER = re.compile(r"-?\b\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
LARGEST = 250_000  # bytes
TOLERANCE = 0.05  # absolute below 1, relative above

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """Return what a cell prints and returns, as text; a picture is its kind and its words."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            texts.append(output.text)
        elif "image/png" in output.data:
            texts.append(f"picture: {output.metadata['image/png']['alt']}")
        else:
            texts.append(output.data["text/plain"])
    return "\n".join(texts)


def words(text):
    return " ".join(NUMBER.sub("#", text).split())


def numbers(text):
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def agree(saved, new):
    return math.isclose(saved, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@each_notebook
def test_a_notebook_is_saved_with_its_outputs_and_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert 10 <= len(notebook.cells) <= 30
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) // 2
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 20, "what does it show?"
        assert not re.search(r"/(?:home|root|tmp|work|usr)/|[A-Z]:\\", shown(cell))


@each_notebook
def test_the_links_of_a_notebook_lead_to_pages(path):
    """mkdocs does not rewrite links in notebooks, so they name the pages of the site."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)", text):
        page = path.parent / link
        assert page.suffix == ".html", link
        assert any(page.with_suffix(kind).is_file() for kind in (".md", ".ipynb")), link


@pytest.mark.parametrize(
    "path",
    slow_except([path for path in NOTEBOOKS if path.stem == "train_network"], NOTEBOOKS),
    ids=lambda path: path.stem,
)
def test_a_notebook_gives_what_is_saved_in_it(path, tmp_path):
    saved = nbformat.read(path, as_version=4)
    executed = execute(path, tmp_path)
    for old, new in zip(code_cells(saved), code_cells(executed), strict=True):
        assert words(shown(old)) == words(shown(new)), new.source
        if old.metadata.get("varies"):
            continue
        pairs = list(zip(numbers(shown(old)), numbers(shown(new)), strict=True))
        assert all(agree(*pair) for pair in pairs), shown(new)
