"""The parser of every command, and how it writes its help."""

from __future__ import annotations

from argparse import Action, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from dmn.io.text import plain_lines

if TYPE_CHECKING:
    from dmn.nn import Contrast

CONTRASTS: dict[str, Contrast] = {  # by the values of --contrast
    "false": False,
    "true": True,
    "mean": "mean",
    "clrp": "clrp",
    "sglrp": "sglrp",
}


def number(text: str) -> float:
    """Read a number as Python does: nan and inf too, which are refused where ranges are."""
    return float(text)


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leave the lines of descriptions as they are, and say nothing of defaults that are none."""

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        kind = self._get_type_str(action) or ""
        takes_none = "null" in kind or "Optional" in kind
        if action.nargs == 0 or (action.default is None and not takes_none):
            text = text.replace(" (default: %(default)s)", "")
            text = text.replace(", default: %(default)s", "")
        return text

    def _get_type_str(self, action: Action) -> str | None:
        return "number" if action.type is number else super()._get_type_str(action)


class Parser(ArgumentParser):
    """A parser whose help reads like documentation, and whose errors are plain text."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **options})

    def error(self, message: str, *cause: Exception | None) -> Any:
        """End the process with a message; what it repeats of the command line is escaped."""
        super().error(plain_lines(message), *cause)
