"""The ordinary networks are torchvision's, but for width, stem and classes."""

import pytest
import torch
import torchvision
from torch import nn

from dmn.errors import OptionError
from dmn.models import VGG16BN, PlainCNN, ResNet18, Trunk
from dmn.split import split


@pytest.mark.parametrize(
    ("own", "original"),
    [(ResNet18, torchvision.models.resnet18), (VGG16BN, torchvision.models.vgg16_bn)],
)
def test_at_full_width_they_are_the_original(own, original):
    with torch.device("meta"):
        mine, theirs = own(num_classes=1000), original()
    shapes = [
        {key: value.shape for key, value in net.state_dict().items()} for net in (mine, theirs)
    ]
    assert shapes[0] == shapes[1]


def test_a_full_network_says_what_the_original_says():
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    mine = ResNet18(7).eval()
    mine.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert mine(x).equal(theirs(x))


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: ResNet18(5, width=8, stem="small", in_channels=1), 1),
        (lambda: ResNet18(5, width=8), 3),
        (lambda: VGG16BN(5, width=4, grid=1), 3),
        (lambda: PlainCNN(1, (4, 8), grid=2, num_classes=5), 1),
    ],
)
def test_narrow_networks_classify_and_split(make, channels):
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    x = torch.rand(2, channels, 32, 32)
    pair = split(net, x)
    with torch.no_grad():
        assert net(x).shape == (2, 5)
        assert pair(x).equal(net(x))


def test_the_small_stem_halves_and_the_original_quarters():
    x = torch.rand(1, 3, 32, 32)
    for stem, side in (("small", 16), ("imagenet", 8)):
        net = ResNet18(width=4, stem=stem)
        before = net.maxpool(net.bn1(net.conv1(x)))
        assert before.shape[-1] == side


def test_a_trunk_is_the_network_up_to_a_layer():
    net = ResNet18(width=4, stem="small")
    trunk = Trunk(net, "layer2")
    assert list(dict(trunk.named_children()))[-1] == "layer2"
    kept = {}
    net.layer2.register_forward_hook(lambda module, args, out: kept.update(out=out))
    x = torch.rand(2, 3, 32, 32)
    net.eval()(x)
    assert torch.equal(trunk(x), kept["out"])
    assert trunk.state_dict().keys() < net.state_dict().keys()
    with pytest.raises(OptionError, match=r"layer is 'stage2'; give one of conv1, bn1, relu"):
        Trunk(net, "stage2")
