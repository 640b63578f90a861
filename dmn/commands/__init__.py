"""Commands beside training's: each a module with a `main(args)`."""

from __future__ import annotations

from argparse import ArgumentParser

from dmn.plain_text import PlainErrors


class Parser(PlainErrors, ArgumentParser):  # type: ignore[misc]
    """A parser whose errors are plain text."""
