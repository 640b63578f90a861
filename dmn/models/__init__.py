"""Networks that are trained: monotone ones, and their difference."""

from dmn.models.difference import DifferenceOfMonotone
from dmn.models.monotone import MonotoneConvNet, MonotoneMLP

__all__ = ["DifferenceOfMonotone", "MonotoneConvNet", "MonotoneMLP"]
