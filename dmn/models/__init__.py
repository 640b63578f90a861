"""Networks to train: monotone networks, differences of them, and ordinary networks to compare with.

`DifferenceOfMonotone` is the classifier `f = g - h`. Its parts g and h are monotone networks:
`MonotoneMLP`, `MonotoneConvNet`, `MonotoneResNet` or `MonotoneVGG`. `PlainCNN`, `ResNet18`,
`VGG16BN`, `ConvNeXt` and `ViT` are ordinary networks, and `Trunk` cuts one off to put it in front
of a difference.
"""

from dmn.models.deep import MonotoneResNet, MonotoneVGG
from dmn.models.difference import DifferenceOfMonotone
from dmn.models.modern import ConvNeXt, ViT
from dmn.models.monotone import MonotoneConvNet, MonotoneMLP
from dmn.models.ordinary import VGG16BN, PlainCNN, ResNet18, Trunk

__all__ = [
    "VGG16BN",
    "ConvNeXt",
    "DifferenceOfMonotone",
    "MonotoneConvNet",
    "MonotoneMLP",
    "MonotoneResNet",
    "MonotoneVGG",
    "PlainCNN",
    "ResNet18",
    "Trunk",
    "ViT",
]
