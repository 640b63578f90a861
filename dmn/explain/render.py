"""Signed maps as colours over the image, and grids of them as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FOR = torch.tensor([0.70, 0.02, 0.15])  # red: speaks for the class
AGAINST = torch.tensor([0.02, 0.19, 0.58])  # blue: speaks against it
CELL = 96  # pixels a side
GAP = 6
TITLE = 22
LABEL = 84


def overlay(x: Tensor, maps: Tensor, against: bool = False) -> Tensor:
    """Colour maps over their images: red where positive, blue where negative.

    Each map is divided by its largest absolute value; the image shows through in light grey.

    Args:
        x: Images (B, C, H, W) in [0, 1].
        maps: Signed maps (B, 1, H, W).
        against: Swap the colours, for a map of counter-evidence.

    Returns:
        RGB pictures (B, 3, H, W) in [0, 1], on the CPU.
    """
    x, maps = x.detach().float().cpu(), maps.detach().float().cpu()
    maps = torch.nan_to_num(maps)
    strength = maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    ground = 1 - 0.25 * x.mean(dim=1, keepdim=True)
    positive, negative = (AGAINST, FOR) if against else (FOR, AGAINST)
    colour = torch.where(strength > 0, positive.view(1, 3, 1, 1), negative.view(1, 3, 1, 1))
    opacity = strength.abs()
    return ground * (1 - opacity) + colour * opacity


def panel(columns: dict[str, Tensor], rows: Sequence[str], caption: str = "") -> Image.Image:
    """Lay pictures out as a titled grid.

    Args:
        columns: Title → pictures (B, 1 or 3, H, W) in [0, 1], one a row.
        rows: What is written before each row.
        caption: Written below.
    """
    height = TITLE + len(rows) * (CELL + GAP) + TITLE
    width = LABEL + len(columns) * (CELL + GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for row, text in enumerate(rows):
        top = TITLE + row * (CELL + GAP)
        draw.multiline_text((4, top + CELL // 2), text, "black", font, anchor="lm")
    draw.text((4, height - TITLE // 2), caption, "black", font, anchor="lm")
    for column, (title, pictures) in enumerate(columns.items()):
        left = LABEL + column * (CELL + GAP)
        draw.text((left + CELL // 2, TITLE // 2), title, "black", font, anchor="mm")
        for row, picture in enumerate(pictures):
            canvas.paste(_to_pil(picture), (left, TITLE + row * (CELL + GAP)))
    return canvas


def _to_pil(picture: Tensor) -> Image.Image:
    """Enlarge a picture (1 or 3, H, W) to one cell, pixels staying square."""
    picture = picture.detach().float().cpu().expand(3, -1, -1).clamp(0, 1)
    scaled = F.interpolate(picture[None], (CELL, CELL), mode="nearest")[0]
    return Image.fromarray((scaled * 255).byte().permute(1, 2, 0).numpy())
