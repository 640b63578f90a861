"""Reading picture files that anybody may have made: as they are seen, or refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from dmn.errors import UnreadableImageError
from dmn.io.reading import regular

Picture = Image.Image
Result = TypeVar("Result")
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
LONGEST = 100  # times the shorter side, to which networks' transforms scale before they cut


def read_picture(path: str | Path, upright: bool = True) -> Picture:
    """Read an image file as RGB, as it is seen; of those that move, the first frame.

    Args:
        path: A file in one of `FORMATS`; transparent parts become white.
        upright: Turn it as its EXIF tag says; cameras leave that to who looks at it.

    Raises:
        UnreadableImageError: names the file, and says why.
    """
    return decode(path, _as_rgb, upright)


def decode(path: str | Path, convert: Callable[[Picture], Result], upright: bool) -> Result:
    """Open an image file, refuse what is too large, and hand it on.

    Args:
        path: A file in one of `FORMATS`, of as many pixels as Pillow takes without a warning, 89
            million, and at most 100 times as long as wide.
        convert: Called with the picture while its file is open.
        upright: Turn it as its EXIF tag says.

    Raises:
        UnreadableImageError: names the file, and says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow says of odd but readable files
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(regular(path)) as picture:
                _refuse_what_is_odd(picture)
                if upright:
                    ImageOps.exif_transpose(picture, in_place=True)
                return convert(picture)
        except Exception as error:  # of any kind, as decoders of broken files raise them
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImageError(f"{path}: cannot be read as an image ({reason})") from error


def _refuse_what_is_odd(picture: Picture) -> None:
    """Raise before any pixel is decoded; decoding PostScript, for one, would run it."""
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
    if picture.mode in ("I", "F"):  # whose white may be any number
        raise ValueError(f"its mode is {picture.mode}; save it with 8 or 16 bits a channel")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
