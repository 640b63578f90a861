"""Relevance is conserved through whole transformers and gated blocks, except for constants."""

import pytest
import torch
from torch import nn
from torchvision.models import EfficientNet, SwinTransformer, VisionTransformer
from torchvision.models.efficientnet import MBConvConfig

from dmn.nn import BackwardConfig
from dmn.split import split

TARGET = torch.tensor([2, 0])


def vit():
    return VisionTransformer(
        16, 4, 2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3, dropout=0.0
    )


def swin():
    return SwinTransformer([4, 4], 8, [2], [2], [2, 2], num_classes=3)


EVEN = "features.0.2.weight"  # of Swin's first norm, whose output is normalised again


def efficientnet():
    blocks = [MBConvConfig(1, 3, 1, 8, 8, 1, 1.0, 1.0), MBConvConfig(2, 3, 2, 8, 8, 2, 1.0, 1.0)]
    return EfficientNet(blocks, dropout=0.0, num_classes=3, last_channel=16)


def network(make):
    """Return a random network without constants.

    Weights that write to what is normalised have outputs with mean 0, so that the mean of a norm,
    which is held, is 0 and absorbs nothing.
    """
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.5)
            if name.endswith(("bias", "class_token", "pos_embedding")):
                parameter.zero_()
            elif name == EVEN and parameter.dim() == 1:
                parameter.fill_(1.3)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight -= layer.weight.mean(0, keepdim=True)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.running_var.uniform_(0.5, 2.0)
    return model


def total(ours, x, config):
    """Return the sum of the relevance of an image."""
    p, n, delta_p, delta_n = ours.read(x, TARGET, ["input"], config, ["g-h"])["input"]["g-h"]
    return (p * delta_p + n * delta_n).flatten(1).sum(1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, "auto"])
@pytest.mark.parametrize("make", [vit, swin, efficientnet])
def test_relevance_sums_up_to_the_logit(make, alpha):
    model = network(make)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    ours = split(model, x)
    logits = ours(x).gather(1, TARGET[:, None])[:, 0]
    config = BackwardConfig("relevance", "class", 1e-15, alpha, 0.5)
    torch.testing.assert_close(total(ours, x, config), logits, rtol=1e-7, atol=1e-9)
    assert ours.held


def test_constants_absorb_relevance():
    """Or the test above would say nothing about the ones that were set to 0."""
    model = network(vit)
    with torch.no_grad():
        model.class_token.normal_()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    ours = split(model, x)
    config = BackwardConfig("relevance", "class", 1e-15, 0.0, 0.5)
    assert (total(ours, x, config) - ours(x).gather(1, TARGET[:, None])[:, 0]).abs().min() > 1e-3
