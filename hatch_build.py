"""The README as package indexes show it, where no file lies beside it.

Relative links become plain text, and relative pictures are left out. Once the repository has an
address, links and pictures could be written with it instead.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
TARGET = r"\((?!https?:|mailto:|#)[^)]*\)"  # relative, with a title or without
PICTURE = re.compile(
    rf"(?:<picture>.*?</picture>|\[!\[[^\]]*\]{TARGET}\]\([^)]*\)|!\[[^\]]*\]{TARGET}"
    r"|<img\b[^>]*\bsrc=\"(?!https?:)[^>]*>)\n*",
    re.S,
)
LINK = re.compile(rf"\[([^\]]*)\]{TARGET}")


def standalone(markdown: str) -> str:
    """Return Markdown without what points at files beside it; blocks of code stay as they are."""
    blocks = FENCED.findall(markdown)
    prose = (LINK.sub(r"\1", PICTURE.sub("", part)) for part in FENCED.split(markdown))
    return "".join(part + block for part, block in zip(prose, [*blocks, ""], strict=True))


class StandaloneReadme(MetadataHookInterface):
    """Give the README to the metadata without what points at files beside it."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the field `readme`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": standalone(text)}
