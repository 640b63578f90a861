"""Time the live page of `dmn view`: from the end of a stroke to the map that is shown.

    dmn view mnist_paired
    python docs/stroke_times.py view.html

Needs Chromium and playwright, which `make install` and `make browser` bring. Draws a digit on the
page again and again, and prints the times that the page measures, each in milliseconds.
"""

import runpy
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
STROKES = 11
SEVEN = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]  # corners, as shares of width and height
LOADED = 120_000  # milliseconds at most


def draw(page: Any, shift: float) -> float:
    """Draw a seven, and return the milliseconds until its map was shown."""
    page.get_by_role("button", name="Clear").click()
    page.evaluate("delete document.body.dataset.milliseconds")
    box = page.locator("#input").bounding_box()
    for corner, (right, down) in enumerate(SEVEN):
        x = box["x"] + (right + shift) * box["width"]
        page.mouse.move(x, box["y"] + down * box["height"], steps=8)
        if corner == 0:
            page.mouse.down()
    page.mouse.up()
    page.locator("body[data-milliseconds]").wait_for()
    return float(page.evaluate("document.body.dataset.milliseconds"))


def main(path: Path) -> None:
    """Open the page, draw on it, and print the times."""
    launched = runpy.run_path(str(ROOT / "tests/browser.py"))["launched"]
    with launched() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.resolve().as_uri())
        page.locator("body[data-live=ready]").wait_for(timeout=LOADED)
        times = [draw(page, (stroke - STROKES // 2) / 100) for stroke in range(STROKES)]
    print(*(f"{time:.0f}" for time in sorted(times)), f"median {median(times):.0f} ms")
    print(f"{path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
