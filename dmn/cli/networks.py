"""Options of commands that say what a network is like, where it is not one of dmn."""

from __future__ import annotations

from dmn.cli.parser import Parser, number


def add_images_and_model(parser: Parser) -> None:
    """Add the pictures, and the network that sees them, of commands that load both."""
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="Picture files of any kind and size.")
    add(
        "--model",
        required=True,
        help="A shipped network, run's folder, file, torchvision's, timm:NAME, hf:FOLDER, or "
        "package.module:factory.",
    )
    add("--weights", help="Of the last four: a file, or a name such as DEFAULT.")
    add_network_options(parser)


def add_network_options(parser: Parser) -> None:
    """Add those options of `dmn.load` that commands pass on as they are."""
    add = parser.add_argument
    add("--num_classes", type=int, help="Outputs; by default as many as the weights have.")
    add("--size", nargs=3, type=int, metavar="N", help="Channels, height, width of its images.")
    add("--mean", nargs="+", type=number, metavar="X", help="Subtracted from pictures in [0, 1].")
    add("--std", nargs="+", type=number, metavar="X", help="What each channel is then divided by.")
    add("--classes", nargs="+", metavar="NAME", help="Names, or a text file with one per line.")
