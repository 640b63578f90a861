"""Text for messages; text from any source, so that terminals and spreadsheets show it as text."""

from __future__ import annotations

import re
from collections.abc import Iterable

# control characters, line separators, marks of text direction, surrogates
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def plain(text: str) -> str:
    r"""Escape what a terminal would execute instead of showing, such as `\x1b` or a line break.

    Letters of all scripts are kept.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_lines(text: str) -> str:
    """Escape like `plain`, but keep line breaks."""
    return "\n".join(map(plain, text.split("\n")))


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, or the name of its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def size_text(shape: Iterable[int]) -> str:
    """Return the size of an image in words, such as 3x32x32."""
    return "x".join(map(str, shape))


def cell(text: str) -> str:
    """Mark text in a CSV table that a spreadsheet would compute as a formula, by a leading `'`.

    Numbers are kept.

    Source: OWASP, CSV Injection.
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
