"""Draw attribution maps over their images, and arrange pictures in panels.

Red speaks for the class, blue against it.
"""

from dmn.viz.panels import overlay, panel, png

__all__ = ["overlay", "panel", "png"]
