"""Photograph a comparison's report, with light and dark colours, for pages that show it.

    python recipes/compare.py
    python recipes/screenshot.py runs/compare/recipe/report.html --out docs/pictures

Needs Chromium and playwright, which `make install` and `make browser` bring. Saved are the table
of mean places, and the heatmaps of the first images without those of controls.
"""

import argparse
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import sync_playwright

from dmn.io.writing import write_whole

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH = 1000  # pixels
SHOWN = {  # name: selectors of its parts
    "overview": ".filter, main > section:first-child > :not(.pair)",
    "heatmaps": "section:has(.gallery) > h2, .gallery thead, .gallery tbody tr:nth-child(-n+4)",
}
MARGIN = 12  # pixels above and below
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="report.html of a comparison")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/pictures"),
        help="folder to write to (default: %(default)s)",
    )
    return parser.parse_args(args)


def photograph(page: Any, parts: str) -> Image.Image:
    """Return a picture of the parts of a page that a selector finds, one below the other."""
    boxes = [each.bounding_box() for each in page.locator(parts).all()]
    top = min(box["y"] for box in boxes) - MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + MARGIN
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
    return Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))


def png(picture: Image.Image) -> bytes:
    """Return a picture as PNG with 256 colours."""
    data = io.BytesIO()
    picture.convert("RGB").quantize(256).save(data, "PNG", optimize=True)
    return data.getvalue()


def main(args: Sequence[str] | None = None) -> None:
    """Open the report in both themes, and save its parts."""
    options = parse(args)
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for theme in THEMES:
            page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=theme)
            page.goto(options.report.resolve().as_uri())
            for name, parts in SHOWN.items():
                page.set_checked("input[value=control]", name == "overview")
                target = options.out / f"report_{name}_{theme}.png"
                write_whole(target, png(photograph(page, parts)))
                print(f"see {target}")
        browser.close()


if __name__ == "__main__":
    main()
