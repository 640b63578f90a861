"""Signed maps as colours over images, and grids of pictures."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from dmn.viz.typeface import POINTS, typeface

SATURATED = 0.005  # share of a map's pixels, so that a few outliers do not make the rest pale
INK, PHOTOGRAPH = 0.25, 0.45  # how dark each is behind a map
CELL = 96  # side in pixels
GAP = 6
TITLE = 22
LABEL = 84  # least width in pixels
NIGHT = (13.5 / 255, 17.5 / 255, 23.5 / 255)  # GitHub's background in dark mode
LEGEND = ("against the class", "for the class")


@dataclass(frozen=True)
class Style:
    """Colours and sizes of overlays and panels; colours are red, green and blue in [0, 1].

    Args:
        background: Behind everything.
        text: Of letters.
        positive: Of what speaks for the class.
        negative: Of what speaks against it.
        dark: Maps shine on dark images, instead of darkening light ones.
        points: Size of letters.
        gap: Between pictures, in pixels.
        line: Height of a line of text, in pixels.
        label: Least width of the labels of rows, in pixels.

    Examples:
        >>> import torch
        >>> from dmn.viz import DARK, overlay, panel
        >>> x, maps = torch.rand(1, 1, 28, 28), torch.randn(1, 1, 28, 28)
        >>> colours = overlay(x, maps, style=DARK)
        >>> panel({"map": colours}, rows=["seven"], style=DARK, legend=True).mode
        'RGB'
    """

    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    text: tuple[float, float, float] = (0.0, 0.0, 0.0)
    positive: tuple[float, float, float] = (0.70, 0.02, 0.15)  # red
    negative: tuple[float, float, float] = (0.02, 0.19, 0.58)  # blue
    dark: bool = False
    points: int = POINTS
    gap: int = GAP
    line: int = TITLE
    label: int = LABEL


LIGHT = Style()
"""Black on white: for pages and paper."""
DARK = Style(NIGHT, (0.90, 0.93, 0.95), (1.0, 0.27, 0.27), (0.30, 0.56, 1.0), dark=True)
"""Light on dark: for pages in dark mode."""


def overlay(x: Tensor, maps: Tensor, against: bool = False, style: Style = LIGHT) -> Tensor:
    """Colour maps over their images: red where positive, blue where negative.

    The strongest 0.5 % of each map get the full colour, or the values above a tenth of the largest
    magnitude if these are fewer. The image shows through in grey.

    Args:
        x: Images (B, C, H, W) in [0, 1]; images with one channel are taken as ink, which differs
            from the background.
        maps: Signed maps (B, 1, H, W).
        against: Swap the colours, for a map of counter-evidence.
        style: Colours.

    Returns:
        RGB pictures (B, 3, H, W) in [0, 1], on the CPU.

    Examples:
        >>> import torch
        >>> from dmn.viz import overlay
        >>> overlay(torch.rand(2, 1, 28, 28), torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 3, 28, 28])
    """
    x, maps = x.detach().float().cpu(), maps.detach().float().cpu()
    maps = torch.nan_to_num(maps)
    magnitudes = maps.abs().flatten(1).sort(dim=1, descending=True).values
    saturation = torch.maximum(
        magnitudes[:, int(SATURATED * magnitudes.shape[1])], magnitudes[:, 0] / 10
    )
    strength = maps / saturation.clamp(min=1e-12).view(-1, 1, 1, 1)
    grey = x.mean(dim=1, keepdim=True)
    seen = grey if style.dark or x.shape[1] == 1 else 1 - grey
    image = (INK if x.shape[1] == 1 else PHOTOGRAPH) * seen
    colours = (style.negative, style.positive) if against else (style.positive, style.negative)
    positive, negative = (torch.tensor(colour).view(1, 3, 1, 1) for colour in colours)
    colour = torch.where(strength > 0, positive, negative)
    opacity = strength.abs().clamp(max=1)
    if style.dark:  # a light that shines on the image
        background = torch.tensor(style.background).view(1, 3, 1, 1)
        return 1 - (1 - background) * (1 - image) * (1 - opacity * colour)
    return (1 - image) * (1 - opacity * (1 - colour))  # a filter through which it is seen


def panel(
    columns: Mapping[str, Sequence[Tensor] | Tensor],
    rows: Sequence[str],
    caption: str = "",
    cell: int = CELL,
    style: Style = LIGHT,
    legend: bool = False,
) -> Image.Image:
    """Arrange pictures as a grid with titles.

    Args:
        columns: For each title its pictures (1 or 3, H, W) in [0, 1], one per row. Titles that are
            too wide are broken into lines at spaces.
        rows: Labels of the rows.
        caption: Text below the grid, broken into lines.
        cell: Side of a picture in pixels.
        style: Colours and sizes.
        legend: Whether to say at the bottom, by a bar, what the colours mean.

    Returns:
        The picture.

    Examples:
        >>> import torch
        >>> from dmn.viz import overlay, panel
        >>> x, maps = torch.rand(2, 1, 28, 28), torch.randn(2, 1, 28, 28)
        >>> picture = panel({"image": 1 - x, "map": overlay(x, maps)}, rows=["seven", "two"])
        >>> picture.size
        (288, 248)
    """
    font = typeface([*columns, *rows, caption], style.points)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def extent(text: str) -> int:
        return math.ceil(ruler.multiline_textbbox((0, 0), text, font)[2])

    gap = style.gap
    label = max([style.label, *(extent(text) + 2 * gap for text in rows)])
    titles = [t if extent(t) <= cell else t.replace(" ", "\n") for t in columns]
    header = style.line * (1 + max(title.count("\n") for title in titles))
    width = label + len(columns) * (cell + gap)
    caption = fill(caption, max(1, len(caption) * (width - 4 * gap) // (1 + extent(caption))))
    footer = style.line * (1 + caption.count("\n")) if caption or not legend else 0
    below = header + len(rows) * (cell + gap)
    height = below + footer + (2 * style.line if legend else 0)
    canvas = Image.new("RGB", (width, height), _rgb(style.background))
    draw = ImageDraw.Draw(canvas)
    ink = _rgb(style.text)
    for row, text in enumerate(rows):
        top = header + row * (cell + gap)
        draw.multiline_text((4, top + cell // 2), text, ink, font, anchor="lm")
    draw.multiline_text((4, below + footer - footer // 2), caption, ink, font, anchor="lm")
    for column, (title, pictures) in enumerate(zip(titles, columns.values(), strict=True)):
        left = label + column * (cell + gap)
        middle = (left + cell // 2, header // 2)
        draw.multiline_text(middle, title, ink, font, anchor="mm", align="center")
        for row, picture in enumerate(pictures):
            scaled = _to_pil(picture, cell)
            margins = [(cell - side) // 2 for side in scaled.size]
            canvas.paste(scaled, (left + margins[0], header + row * (cell + gap) + margins[1]))
    if legend:
        _draw_legend(canvas, (4, height - style.line), font, style)
    return canvas


def _draw_legend(canvas: Image.Image, place: tuple[int, int], font: Any, style: Style) -> None:
    """Draw a bar of the colours between what they mean, centred vertically at a place."""
    draw = ImageDraw.Draw(canvas)
    left, middle = place
    ink = _rgb(style.text)
    size = (8 * style.line, style.line)
    strengths = torch.linspace(-1, 1, size[0]).expand(1, 1, size[1], -1)
    bar = overlay(torch.zeros(1, 1, size[1], size[0]), strengths, style=style)[0]
    before, after = LEGEND
    start = left + math.ceil(draw.textlength(before, font)) + 2 * style.gap
    draw.text((left, middle), before, ink, font, anchor="lm")
    canvas.paste(_to_pil(bar, size[0]), (start, middle - size[1] // 2))
    draw.text((start + size[0] // 2, middle), "0", ink, font, anchor="mm")
    draw.text((start + size[0] + 2 * style.gap, middle), after, ink, font, anchor="lm")


def _rgb(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return a colour in [0, 1] as Pillow takes it, rounded down like pictures."""
    red, green, blue = (int(255 * part) for part in colour)
    return red, green, blue


def png(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file.

    Args:
        picture: E.g. of `panel`.
    """
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def picture_png(picture: Tensor) -> bytes:
    """Return a picture (1 or 3, H, W) in [0, 1] as the content of a PNG file of its own size."""
    return png(_to_pil(picture, max(picture.shape[-2:])))


def data_uri(content: bytes) -> str:
    """Return the content of a PNG file as an address, which a page has inside itself."""
    return f"data:image/png;base64,{b64encode(content).decode()}"


def _to_pil(picture: Tensor, cell: int) -> Image.Image:
    """Resize a picture (1 or 3, H, W) to fit in a cell; enlarged pixels stay square."""
    picture = picture.detach().float().cpu().expand(3, -1, -1).clamp(0, 1)
    longest = max(picture.shape[-2:])
    size = [max(1, side * cell // longest) for side in picture.shape[-2:]]
    scaled = F.interpolate(picture[None], size, mode="nearest" if longest <= cell else "area")[0]
    return Image.fromarray((scaled * 255).byte().permute(1, 2, 0).numpy())
