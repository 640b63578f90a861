"""Signed maps as colours over images, and grids of pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from textwrap import fill

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from dmn.viz.typeface import typeface

FOR = torch.tensor([0.70, 0.02, 0.15])  # red: speaks for the class
AGAINST = torch.tensor([0.02, 0.19, 0.58])  # blue: speaks against it
SATURATED = 0.005  # share of a map's pixels, so that a few outliers do not make the rest pale
INK, PHOTOGRAPH = 0.25, 0.45  # how dark each is behind a map
CELL = 96  # side in pixels
GAP = 6
TITLE = 22
LABEL = 84  # least width in pixels


def overlay(x: Tensor, maps: Tensor, against: bool = False) -> Tensor:
    """Colour maps over their images: red where positive, blue where negative.

    The strongest 0.5 % of each map get the full colour, or the values above a tenth of the largest
    magnitude if these are fewer. The image shows through in light grey.

    Args:
        x: Images (B, C, H, W) in [0, 1]; images with one channel are taken as ink and drawn dark.
        maps: Signed maps (B, 1, H, W).
        against: Swap the colours, for a map of counter-evidence.

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
    dark = INK * x if x.shape[1] == 1 else PHOTOGRAPH * (1 - x.mean(dim=1, keepdim=True))
    positive, negative = (AGAINST, FOR) if against else (FOR, AGAINST)
    colour = torch.where(strength > 0, positive.view(1, 3, 1, 1), negative.view(1, 3, 1, 1))
    opacity = strength.abs().clamp(max=1)
    return (1 - dark) * (1 - opacity * (1 - colour))  # seen through a filter


def panel(
    columns: Mapping[str, Sequence[Tensor] | Tensor],
    rows: Sequence[str],
    caption: str = "",
    cell: int = CELL,
) -> Image.Image:
    """Arrange pictures as a grid with titles.

    Args:
        columns: For each title its pictures (1 or 3, H, W) in [0, 1], one per row. Titles that are
            too wide are broken into lines at spaces.
        rows: Labels of the rows.
        caption: Text below the grid, broken into lines.
        cell: Side of a picture in pixels.

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
    font = typeface([*columns, *rows, caption])
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def extent(text: str) -> int:
        return math.ceil(ruler.multiline_textbbox((0, 0), text, font)[2])

    label = max([LABEL, *(extent(text) + 2 * GAP for text in rows)])
    titles = [t if extent(t) <= cell else t.replace(" ", "\n") for t in columns]
    header = TITLE * (1 + max(title.count("\n") for title in titles))
    width = label + len(columns) * (cell + GAP)
    caption = fill(caption, max(1, len(caption) * (width - 4 * GAP) // (1 + extent(caption))))
    footer = TITLE * (1 + caption.count("\n"))
    height = header + len(rows) * (cell + GAP) + footer
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(rows):
        top = header + row * (cell + GAP)
        draw.multiline_text((4, top + cell // 2), text, "black", font, anchor="lm")
    draw.multiline_text((4, height - footer // 2), caption, "black", font, anchor="lm")
    for column, (title, pictures) in enumerate(zip(titles, columns.values(), strict=True)):
        left = label + column * (cell + GAP)
        middle = (left + cell // 2, header // 2)
        draw.multiline_text(middle, title, "black", font, anchor="mm", align="center")
        for row, picture in enumerate(pictures):
            scaled = _to_pil(picture, cell)
            margins = [(cell - side) // 2 for side in scaled.size]
            canvas.paste(scaled, (left + margins[0], header + row * (cell + GAP) + margins[1]))
    return canvas


def png(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file.

    Args:
        picture: E.g. of `panel`.
    """
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _to_pil(picture: Tensor, cell: int) -> Image.Image:
    """Resize a picture (1 or 3, H, W) to fit in a cell; enlarged pixels stay square."""
    picture = picture.detach().float().cpu().expand(3, -1, -1).clamp(0, 1)
    longest = max(picture.shape[-2:])
    size = [max(1, side * cell // longest) for side in picture.shape[-2:]]
    scaled = F.interpolate(picture[None], size, mode="nearest" if longest <= cell else "area")[0]
    return Image.fromarray((scaled * 255).byte().permute(1, 2, 0).numpy())
