"""Typefaces for labels in the scripts that they are written in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

POINTS = 13
NO_CHARACTER = "\U0010ffff"  # drawn as every character that a typeface lacks


def typeface(texts: list[str], points: int = POINTS) -> Any:
    """Return Pillow's typeface for ASCII, and for other text one with most alphabets."""
    is_ascii = all(map(str.isascii, texts))
    return ImageFont.load_default(points) if is_ascii else _of_alphabets(points - 1)


def can_be_drawn(text: str) -> bool:
    """Return whether `typeface` has every character of a text, as it has not of Chinese."""
    return text.isascii() or all(map(_has, text))


def class_label(name: str, index: int) -> str:
    """Return the name of a class to be drawn; by its number, if it cannot be."""
    return name if can_be_drawn(name) else f"class {index}"


@cache
def _of_alphabets(points: int = POINTS - 1) -> Any:
    import matplotlib  # DejaVu Sans is inside its wheel

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), points)


@cache
def _has(character: str) -> bool:
    font = _of_alphabets()
    drawn, missing = (bytes(font.getmask(text)) for text in (character, NO_CHARACTER))
    return character.isspace() or drawn != missing
