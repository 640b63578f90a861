"""Data modules for training, validation and test, some with masks of the evidence.

`MNIST`, `Scenes` and `Letters` come with the packages and need no download. `Folder` reads your own
images, `CIFAR10` is downloaded once, and `ImageNetS` reads a folder that you have prepared. All
yield batches of type `ImageBatch`. Derive your own data module from `ImageModule`.
"""

from dmn.data.batch import ImageBatch, as_batch, concatenate
from dmn.data.cifar10 import CIFAR10
from dmn.data.folder import Folder
from dmn.data.imagenet_s import ImageNetS
from dmn.data.images import ImageModule
from dmn.data.letters import Letters
from dmn.data.mnist import MNIST
from dmn.data.scenes import Scenes

__all__ = [
    "CIFAR10",
    "MNIST",
    "Folder",
    "ImageBatch",
    "ImageModule",
    "ImageNetS",
    "Letters",
    "Scenes",
    "as_batch",
    "concatenate",
]
