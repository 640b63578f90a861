"""Difference-of-monotone networks: image classifiers that explain themselves."""

from importlib.metadata import version

__version__ = version("dmn")
