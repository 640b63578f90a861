"""Options of commands that say what a network of one's own, `package.module:factory`, is like."""

from __future__ import annotations

from dmn.cli.parser import Parser, number


def add_network_options(parser: Parser) -> None:
    """Add those options of `dmn.load` that commands pass on as they are."""
    add = parser.add_argument
    add("--num_classes", type=int, help="Outputs; by default as many as the weights have.")
    own = "Of a network of your own:"
    add("--size", nargs=3, type=int, metavar="N", help=f"{own} channels, height, width.")
    add("--mean", nargs="+", type=number, metavar="X", help=f"{own} subtracted from [0, 1].")
    add("--std", nargs="+", type=number, metavar="X", help=f"{own} divides each channel then.")
    add("--classes", nargs="+", metavar="NAME", help=f"{own} names, or a file of a name a line.")
