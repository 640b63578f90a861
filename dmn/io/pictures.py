"""Read image files from any source; refuse by name what cannot be read safely."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from dmn.errors import UnreadableImageError
from dmn.io.reading import regular
from dmn.io.text import one_line

Picture = Image.Image
Result = TypeVar("Result")
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F")  # modes of Pillow
LONGEST = 100  # times the shorter side, to which transforms scale before they crop


def read_picture(path: str | Path, upright: bool = True) -> Picture:
    """Read an image file as RGB, as a viewer shows it; of an animation, the first frame.

    Args:
        path: A file in one of `FORMATS`; transparent parts become white.
        upright: Rotate it as its EXIF tag says, as viewers do.

    Raises:
        UnreadableImageError: if it cannot be read; names the file, and says why.
    """
    return decode(path, _as_rgb, upright)


@cache
def picture_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files in one of `FORMATS`, in lower case."""
    Image.init()
    return tuple(
        suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS
    )


def picture_traits(path: str | Path) -> tuple[int, int]:
    """Read from the head of an image file its shorter side in pixels, and 1 channel if it is grey.

    Args:
        path: A file in one of `FORMATS`.

    Returns:
        The shorter side, and the number of channels, 1 or 3.

    Raises:
        UnreadableImageError: if it cannot be read; names the file, and says why.
    """
    return decode(
        path, lambda picture: (min(picture.size), 1 if picture.mode in GREY else 3), False
    )


def decode(path: str | Path, convert: Callable[[Picture], Result], upright: bool) -> Result:
    """Open an image file, refuse one that is too large, and convert it.

    Args:
        path: A file in one of `FORMATS`, of at most 89 million pixels, beyond which Pillow warns,
            and at most 100 times as long as wide.
        convert: Called with the picture while its file is open.
        upright: Rotate it as its EXIF tag says.

    Raises:
        UnreadableImageError: if it cannot be read; names the file, and says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about unusual but readable files
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(regular(path)) as picture:
                _check_format_and_size(picture)
                if upright:
                    ImageOps.exif_transpose(picture, in_place=True)
                return convert(picture)
        except Exception as error:  # decoders raise any kind for broken files
            raise UnreadableImageError(f"{path}: {_refusal(path, error)}") from error


def _refusal(path: str | Path, error: Exception) -> str:
    """Say why a file is no image; a broken link is there, and cannot be read."""
    if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
        return "there is no such file"
    if os.path.isdir(path):
        return "this is a folder; give the image files in it"
    return f"cannot be read as an image ({one_line(error)})"


def _check_format_and_size(picture: Picture) -> None:
    """Raise before any pixel is decoded; decoding PostScript, for example, would run it."""
    if picture.format not in FORMATS:
        raise ValueError(f"it is {picture.format}; save it as PNG or JPEG")
    if max(picture.size) > LONGEST * min(picture.size):
        width, height = picture.size
        raise ValueError(
            f"it is {width} x {height} pixels, over {LONGEST} times as long as wide; crop it"
        )


def _as_rgb(picture: Picture) -> Picture:
    if picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PNG"):
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if picture.mode in ("I", "F"):  # where white may be any number
        raise ValueError(f"its mode is {picture.mode}; save it with 8 or 16 bits a channel")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
