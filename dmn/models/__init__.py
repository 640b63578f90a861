"""Networks that are trained: monotone ones and their difference, and ordinary ones beside them."""

from dmn.models.deep import MonotoneResNet, MonotoneVGG
from dmn.models.difference import DifferenceOfMonotone
from dmn.models.monotone import MonotoneConvNet, MonotoneMLP
from dmn.models.ordinary import VGG16BN, PlainCNN, ResNet18, Trunk

__all__ = [
    "VGG16BN",
    "DifferenceOfMonotone",
    "MonotoneConvNet",
    "MonotoneMLP",
    "MonotoneResNet",
    "MonotoneVGG",
    "PlainCNN",
    "ResNet18",
    "Trunk",
]
