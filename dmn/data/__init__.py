"""Data sets, with pixel masks where there are any."""

from dmn.data.cifar10 import CIFAR10
from dmn.data.folder import Folder
from dmn.data.imagenet_s import ImageNetS
from dmn.data.images import Labelled
from dmn.data.letters import Letters
from dmn.data.mnist import MNIST, Batch
from dmn.data.scenes import Scenes

__all__ = [
    "CIFAR10",
    "MNIST",
    "Batch",
    "Folder",
    "ImageNetS",
    "Labelled",
    "Letters",
    "Scenes",
]
