"""Names that anybody may have chosen, written so that they are only text where they are read."""

from __future__ import annotations

import re

# control characters, line separators, marks that turn the direction of text, halves of characters
_OBEYED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def plain(text: str) -> str:
    r"""Escape what a terminal would obey instead of showing it, such as `\x1b` or a line break.

    Letters of any script stay as they are.
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_lines(text: str) -> str:
    """Escape likewise, but for line breaks."""
    return "\n".join(map(plain, text.split("\n")))


def cell(text: str) -> str:
    """Mark text in a CSV table that a spreadsheet would compute as a formula, by a leading `'`.

    Numbers stay as they are.

    Source: OWASP, CSV Injection.
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
