"""Small classifiers, in float64 and eval mode, written as torchvision writes its own."""

import torch
from small_pairs import randomise, tiny_pair
from torch import nn
from torchvision.models.resnet import BasicBlock

import dmn.baselines  # noqa: F401 - registers the methods
from dmn.canonize import canonize
from dmn.explain import list_methods

CLASSES = 3
POST_HOC = {
    spec.name: spec.factory for spec in list_methods("post-hoc") if not spec.needs_attention
}


class Guided(torch.autograd.Function):
    """ReLU, whose gradient is kept where it is positive, by its definition."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(min=0) * (ctx.saved_tensors[0] > 0)


def vgg():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        *(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)),
        *(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 16)),
        *(nn.ReLU(inplace=True), nn.Dropout(), nn.Identity(), nn.Linear(16, CLASSES)),
    )


class ResNet(nn.Module):
    """Residual blocks, whose one ReLU is in place and called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        down = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
        self.block1, self.block2 = BasicBlock(4, 4), BasicBlock(4, 6, 2, down)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.block2(self.block1(self.pool(self.relu(self.norm(self.conv(x))))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def made(model):
    return randomise(model).double().eval()


NETWORKS = {
    "vgg": lambda: made(vgg()),
    "resnet": lambda: made(ResNet()),
    "canonized": lambda: canonize(made(ResNet())),
    "difference": lambda: tiny_pair(residual=True),
}
LAYERS = {"vgg": "6", "resnet": "block1", "canonized": "block1.relu_1", "difference": "g.net.stem"}
OPTIONS = {
    "IntegratedGradients": {"steps": 4, "batch": 6},
    "GradientSHAP": {"samples": 3, "noise": 0.1},
    "SmoothGrad": {"samples": 3},
    "Occlusion": {"window": 0.3, "batch": 8},
    "FeatureAblation": {"cells": 3, "batch": 8},
}
RELEVANCE = ("LRP", "Excitation", "AttnLRP")  # how the names of methods begin that propagate it
COPIES = ("GuidedBackprop", "DeepLift", *RELEVANCE)  # these run a copy of the model


def options(method, network):
    return {"layer": LAYERS[network]} if "CAM" in method else OPTIONS.get(method, {})
