"""Draw the packages of dmn and what they import, as docs/pictures/architecture.svg.

    python docs/architecture_picture.py

The arrows are those of `MAY_IMPORT` in tests/test_architecture.py, without the ones that follow
from others. Where a package stands and what is written below its name is said here.
"""

import runpy
from collections.abc import Iterator, Mapping, Set
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/pictures/architecture.svg"
NOT_DRAWN = ("__init__", "errors")  # the first only passes on; every package may import the second

# Package: column, row from the top, two lines of text.
PLACES = {
    "cli": (2, 0, "one module", "per command"),
    "compare": (2, 1, "scores, statistics,", "report"),
    "baselines": (1, 2, "captum, torchcam,", "zennit"),
    "train": (3, 2, "task, callbacks,", "penalties"),
    "view": (0, 1, "a page to look", "and to draw"),
    "onnx": (0, 2, "maps without", "torch"),
    "hub": (0, 3, "networks by", "name or file"),
    "viz": (2, 3, "maps over images,", "panels"),
    "truth": (5, 2, "benchmarks with", "a known answer"),
    "evaluate": (3, 3, "Quantus and", "other metrics"),
    "data": (4, 3, "data modules,", "batches"),
    "tracking": (5, 3, "CSV and Weights", "&amp; Biases"),
    "split": (0, 4, "a trained network", "as g - h"),
    "canonize": (1, 5, "the same function", "without BatchNorm"),
    "models": (2, 5, "networks", "to train"),
    "certify": (2, 6, "bounds over boxes", "of images"),
    "rules": (1, 6, "what an operation", "does to streams"),
    "explain": (3, 6, "SplitCAM, SplitLRP,", "the registry"),
    "io": (4, 6, "files and names", "from outside"),
    "graph": (1, 7, "a network as", "operations"),
    "nn": (2, 8, "constrained layers,", "the Pair protocol"),
}
COLUMN, ROW = 130, 84
WIDTH, HEIGHT = 118, 56
MARGIN = 14
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
  width="{width}" height="{height}" font-family="system-ui, sans-serif" text-anchor="middle">
<title>The packages of dmn, and which imports which</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
  orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#5c6bc0"/></marker></defs>
<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>"""


def arrows(imports: Mapping[str, Set[str]]) -> Iterator[tuple[str, str]]:
    """Yield each package with every one that it imports, except those that another one imports.

    Args:
        imports: Package to all packages that it may import.
    """
    for own, others in imports.items():
        for other in sorted(others):
            if own not in NOT_DRAWN and not any(other in imports[between] for between in others):
                yield own, other


def corner(package: str) -> tuple[int, int]:
    """Return left and top of a package's box."""
    column, row, *_ = PLACES[package]
    return MARGIN + column * COLUMN, MARGIN + row * ROW


def box(package: str) -> str:
    """Draw a package."""
    left, top = corner(package)
    middle = left + WIDTH // 2
    lines = "".join(
        f'<text x="{middle}" y="{top + 34 + 14 * row}" font-size="11" fill="#37474f">{line}</text>'
        for row, line in enumerate(PLACES[package][2:])
    )
    return (
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#e8eaf6" '
        f'stroke="#5c6bc0"/><text x="{middle}" y="{top + 18}" font-size="14" font-weight="bold" '
        f'fill="#1a237e">{escape(package)}</text>{lines}'
    )


def arrow(start: str, end: str) -> str:
    """Draw an arrow from the bottom of one package to the top of another."""
    (left, top), (right, bottom) = corner(start), corner(end)
    left, right = left + WIDTH // 2, right + WIDTH // 2
    top += HEIGHT
    middle = (top + bottom) // 2
    return (
        f'<path d="M{left} {top} C{left} {middle} {right} {middle} {right} {bottom - 1}" '
        'fill="none" stroke="#5c6bc0" marker-end="url(#tip)"/>'
    )


def draw(imports: Mapping[str, Set[str]]) -> str:
    """Return the picture as SVG.

    Args:
        imports: Package to all packages that it may import.
    """
    columns, rows = (max(place[axis] for place in PLACES.values()) for axis in (0, 1))
    size = {
        "width": 2 * MARGIN + columns * COLUMN + WIDTH,
        "height": 2 * MARGIN + rows * ROW + HEIGHT,
    }
    lines = [HEAD.format(**size), *(arrow(*pair) for pair in arrows(imports)), *map(box, PLACES)]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    table = runpy.run_path(str(ROOT / "tests/test_architecture.py"))["MAY_IMPORT"]
    PICTURE.write_text(draw(table), encoding="utf-8")
