"""Small networks in float64, whose batch statistics are drawn."""

import torch

from dmn.models import DifferenceOfMonotone, MonotoneConvNet, ResNet18, Trunk


def randomise(module):
    """Draw batch statistics, scales and shifts, without which tests of BatchNorm are vacuous."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0.0, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
            if layer.affine:
                layer.weight.data.uniform_(0.3, 1.5)
                layer.bias.data.normal_(0.0, 0.5)
    return module


def tiny_pair(inputs="paired", seed=0, **options):
    """Make a small pair in float64 and eval mode, with drawn batch statistics."""
    torch.manual_seed(seed)
    channels = 2 if inputs in ("paired", "opposed") else 1
    options = {"widths": (4, 6), "units": 1, "grid": 2, "num_classes": 3, **options}
    nets = [MonotoneConvNet(channels, **options) for _ in range(2)]
    return randomise(DifferenceOfMonotone(*nets, inputs)).double().eval()


def fronted_pair(seed=0):
    """Make a small pair behind a front, likewise; its images are (3, 16, 16)."""
    torch.manual_seed(seed)
    front = Trunk(ResNet18(width=3, stem="small"), "layer1")
    nets = [
        MonotoneConvNet(6, (4, 6), 1, grid=2, num_classes=3, activation="convex_concave")
        for _ in range(2)
    ]
    return randomise(DifferenceOfMonotone(*nets, "opposed", front=front)).double().eval()
