"""Draw attribution maps over their images, and arrange pictures in panels.

Red speaks for the class, blue against it.
"""

from dmn.viz.panels import DARK, LIGHT, Style, overlay, panel, png

__all__ = ["DARK", "LIGHT", "Style", "overlay", "panel", "png"]
