"""Parsers of commands beside training's."""

from __future__ import annotations

from argparse import ArgumentParser

from dmn.io.text import PlainErrors


class Parser(PlainErrors, ArgumentParser):  # type: ignore[misc]
    """A parser whose errors are plain text."""
