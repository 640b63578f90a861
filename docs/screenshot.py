"""Photograph a comparison's report, with light and dark colours, for pages that show it.

    python recipes/compare.py
    python docs/screenshot.py runs/compare/recipe/report.html

Needs Chromium and playwright, which `make install` and `make browser` bring. Saved in docs/pictures
are the table of mean places, and the heatmaps of the first images without those of controls.
"""

import io
import runpy
import sys
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from dmn.io.writing import write_whole
from dmn.viz import png

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
WIDTH = 1000  # pixels
SHOWN = {  # name: selectors of its parts
    "overview": ".filter, main > section:first-child > :not(.pair)",
    "heatmaps": "section:has(.gallery) > h2, .gallery thead, .gallery tbody tr:nth-child(-n+4)",
}
MARGIN = 12  # pixels above and below
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def photograph(page: Any, parts: str) -> Image.Image:
    """Return a picture of the parts of a page that a selector finds, one below the other."""
    boxes = [each.bounding_box() for each in page.locator(parts).all()]
    top = min(box["y"] for box in boxes) - MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + MARGIN
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
    return Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))


def main(report: Path) -> None:
    """Open a report in both themes, and save its parts."""
    launched = runpy.run_path(str(ROOT / "tests/browser.py"))["launched"]
    with launched() as browser:
        for theme in THEMES:
            page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=theme)
            page.goto(report.resolve().as_uri())
            for name, parts in SHOWN.items():
                page.set_checked("input[value=control]", name == "overview")
                picture = photograph(page, parts).convert("RGB").quantize(256)
                target = PICTURES / f"report_{name}_{theme}.png"
                write_whole(target, png(picture))
                print(f"see {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
