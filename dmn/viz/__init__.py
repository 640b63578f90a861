"""Pictures: attribution maps over images, and panels of them."""

from dmn.viz.panels import overlay, panel, png

__all__ = ["overlay", "panel", "png"]
