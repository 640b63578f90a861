"""Ordinary networks to compare with: torchvision's, optionally narrower and for smaller images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import VGG, make_layers

from dmn.errors import OptionError

ResNetStem = Literal["imagenet", "small"]
FULL_WIDTH = 64  # channels of torchvision's first stage
_VGG16: list[int | Literal["M"]] = [1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"]


class ResNet18(ResNet):  # type: ignore[misc]
    """torchvision's ResNet-18 for any number of channels, with a stem for small images.

    Args:
        num_classes: Number of logits.
        width: Channels of the first stage; 64 is the original.
        stem: "imagenet" divides the sides by 4 (7x7 convolution and max pooling), "small" by 2 (one
            3x3 convolution).
        in_channels: Channels of the image.

    Examples:
        >>> import torch
        >>> from dmn.models import ResNet18
        >>> net = ResNet18(num_classes=3, width=8, stem="small", in_channels=1).eval()
        >>> net(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = FULL_WIDTH,
        stem: ResNetStem = "imagenet",
        in_channels: int = 3,
    ) -> None:
        self._width = width
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes)
        size = 7 if stem == "imagenet" else 3
        self.conv1 = nn.Conv2d(in_channels, width, size, 2, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(8 * width, num_classes)
        if stem == "small":
            self.maxpool = nn.Identity()

    def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
        if planes == FULL_WIDTH:
            self.inplanes = self._width
        stage: nn.Sequential = super()._make_layer(
            block, planes * self._width // FULL_WIDTH, *args, **options
        )
        return stage


class VGG16BN(VGG):  # type: ignore[misc]
    """torchvision's VGG16 with BatchNorm for any number of channels.

    Args:
        num_classes: Number of logits.
        width: Channels of the first stage; 64 is the original.
        grid: Cells per side that the classifier sees; 7 is the original, 2 suits images of 64
            pixels.
        in_channels: Channels of the image.

    Examples:
        >>> import torch
        >>> from dmn.models import VGG16BN
        >>> with torch.device("meta"):  # shapes without weights: leave this out to train
        ...     net = VGG16BN(num_classes=3, width=16, grid=2)
        ...     print(net(torch.rand(5, 3, 64, 64)).shape)
        torch.Size([5, 3])
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = FULL_WIDTH,
        grid: int = 7,
        in_channels: int = 3,
    ) -> None:
        layout: list[Any] = [item if item == "M" else item * width for item in _VGG16]
        features = make_layers(layout, batch_norm=True)
        super().__init__(features, num_classes)
        first = nn.Conv2d(in_channels, width, 3, padding=1)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        features[0] = first
        hidden = 64 * width
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.classifier = nn.Sequential(
            nn.Linear(8 * width * grid**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )


class PlainCNN(nn.Sequential):
    """A plain convolutional network: convolution, batch norm, ReLU, max pool; one linear layer.

    Its layers are `stage1`, `stage2`, ..., `cells`, `flatten`, `head`.

    Args:
        in_channels: Channels of the image.
        widths: Channels of each stage; each stage halves the sides.
        grid: Cells per side that the head sees.
        num_classes: Number of logits.

    Examples:
        >>> import torch
        >>> from dmn.models import PlainCNN
        >>> net = PlainCNN(in_channels=1, widths=(4, 8), num_classes=3).eval()
        >>> net(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (24, 48, 48),
        grid: int = 3,
        num_classes: int = 10,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, width in enumerate(widths, start=1):
            layers[f"stage{stage}"] = _stage(in_channels, width)
            in_channels = width
        layers["cells"] = nn.AdaptiveAvgPool2d(grid)
        layers["flatten"] = nn.Flatten()
        layers["head"] = nn.Linear(in_channels * grid**2, num_classes)
        super().__init__(layers)


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(outputs),
            activation=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        )
    )


class Trunk(nn.Sequential):
    """The lower part of an ordinary network, up to a layer; a front for a difference network.

    Args:
        net: A network whose children run one after the other, as those of `ResNet18` and `PlainCNN`
            do; trained or not.
        layer: The last child that is kept, e.g. "layer2".

    Raises:
        OptionError: if there is no such child; lists those that there are.

    Examples:
        >>> import torch
        >>> from dmn.models import DifferenceOfMonotone, MonotoneConvNet, PlainCNN, Trunk
        >>> front = Trunk(PlainCNN(1, widths=(4, 8)), "stage1")  # (B, 4, 14, 14)
        >>> g, h = (MonotoneConvNet(8, widths=(4,), grid=2, num_classes=3) for _ in range(2))
        >>> net = DifferenceOfMonotone(g, h, inputs="opposed", front=front).eval()
        >>> net(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 3])
    """

    def __init__(self, net: nn.Module, layer: str) -> None:
        children = OrderedDict(net.named_children())
        if layer not in children:
            raise OptionError(f"layer is {layer!r}; give one of {', '.join(children)}")
        last = list(children).index(layer) + 1
        super().__init__(OrderedDict(list(children.items())[:last]))
