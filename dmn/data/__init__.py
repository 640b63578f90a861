"""Data sets with pixel masks."""

from dmn.data.mnist import MNIST, Batch, DataUnavailableError

__all__ = ["MNIST", "Batch", "DataUnavailableError"]
