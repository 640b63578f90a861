"""What torchcam computes, against definitions written out."""

import pytest
import torch
import torch.nn.functional as F
from rival_networks import ResNet, made
from torch import nn

from dmn.baselines import GradCAM, GradCAMpp, LayerCAM
from dmn.errors import UnknownNameError

TARGET = torch.tensor([0, 1, 2, 1, 0])
EVERY = pytest.mark.parametrize("method", [GradCAM, GradCAMpp, LayerCAM])


def grad_cam(a, g):
    return sum(a[k] * g[k].mean() for k in range(len(a)))


def grad_cam_pp(a, g):
    total = 0
    for k in range(len(a)):
        weight = sum(g * g**2 / (2 * g**2 + a[k].sum() * g**3) for g in g[k].flatten() if g > 0)
        total = total + a[k] * weight
    return total


def layer_cam(a, g):
    return sum(a[k] * g[k].clamp(min=0) for k in range(len(a)))


DEFINITIONS = {GradCAM: grad_cam, GradCAMpp: grad_cam_pp, LayerCAM: layer_cam}


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("method", DEFINITIONS)
def test_by_definition(method, inplace, contrast, images):
    """Of the layer's own output, though a ReLU in place may overwrite it."""
    body = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 6, 3, 2))
    head = nn.Sequential(nn.ReLU(inplace), nn.Conv2d(6, 3, 2), nn.Flatten())
    model = nn.Sequential(body, head.double()).append(nn.Linear(3, 3)).double()
    activations = body(images).detach().requires_grad_()
    logits = model[2](head[2](head[1](activations.relu())))
    scores = logits.gather(1, TARGET[:, None])
    if contrast:
        scores = scores - logits.mean(1, keepdim=True)
    (gradients,) = torch.autograd.grad(scores.sum(), activations)
    with torch.no_grad():
        pairs = zip(activations, gradients, strict=True)
        maps = torch.stack([DEFINITIONS[method](a, g) for a, g in pairs]).clamp(min=0)
        expected = F.interpolate(maps[:, None], (8, 8), mode="bilinear", align_corners=False)
    ours = method(model, "0.1", contrast=contrast)(images, TARGET)
    assert expected.abs().max() > 0
    assert torch.allclose(ours.double(), expected, rtol=1e-5, atol=1e-9)


@EVERY
def test_layers_that_are_unknown_or_no_image(method, images):
    model = made(ResNet())
    model.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(UnknownNameError, match=r"no layer 'block3'; there are .*block1") as caught:
        method(model, "block3")
    assert len(str(caught.value)) < 250
    with pytest.raises(UnknownNameError, match="'fc' holds no image"):
        method(model, "fc")(images)
    with pytest.raises(UnknownNameError, match="'unused' does not run"):
        method(model, "unused")(images)
    assert not any(module._forward_hooks for module in model.modules())
