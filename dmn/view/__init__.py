"""An interactive page about a network: images, classes and their maps, in one HTML file."""

from dmn.view.page import write_page

__all__ = ["write_page"]
