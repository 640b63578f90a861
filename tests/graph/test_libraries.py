"""Classifiers of torchvision, timm and Hugging Face are traced bit for bit, one tensor per node."""

import pytest
import torch
import torchvision
from effort import slow_except
from library_networks import (
    HUGGING_FACE,
    TIMM,
    hugging_face_network,
    noise,
    side_of,
    timm_network,
)
from torch import Tensor, fx, nn

from dmn.graph.equal import require_equal
from dmn.graph.trace import trace
from dmn.nn.attention import AttentionOutput
from dmn.rules.table import is_known

TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32"),
    "wide_resnet50_2",
)


class Values(fx.Interpreter):
    """Runs a graph, and checks that what the image leads to is one tensor per node."""

    def run_node(self, n):
        value = super().run_node(n)
        numbers = int | float | bool | str | torch.Size | torch.dtype | torch.device | None
        if not isinstance(value, Tensor | numbers):
            assert n.target in (torch.meshgrid, "max", "output"), n.format_node()
        return value


def check(model: nn.Module, x: Tensor) -> None:
    """Compare a trace with its network on two batches."""
    model = model.eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    keys = model.state_dict().keys()
    traced = trace(model, is_known, x)
    network = traced.network
    assert not traced.unsupported
    require_equal(network, model, x, exact=True)
    require_equal(network, model, x[:1], exact=True)
    new = network.state_dict().keys() - keys
    assert all("tensor_constant" in key for key in new), new
    targets = [getattr(node.target, "__name__", str(node.target)) for node in network.graph.nodes]
    assert not any(name.endswith("_") and name[0] != "_" for name in targets)
    assert not any(name.startswith(("setitem", "shifted_window")) for name in targets)
    attention = [m for m in network.modules() if isinstance(m, nn.MultiheadAttention)]
    assert all(type(module) is AttentionOutput for module in attention)
    assert {"input"} < traced.layers.keys()
    with torch.no_grad():
        Values(network).run(x)


@pytest.mark.parametrize(
    "name", slow_except(("efficientnet_b0", "mobilenet_v3_small", "swin_v2_t"), TORCHVISION)
)
def test_torchvision(name):
    side = {"inception_v3": 96, "maxvit_t": 224}.get(name, 64)
    options = {"image_size": 64} if name.startswith("vit_") else {}
    options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    check(torchvision.models.get_model(name, **options), noise(side))


@pytest.mark.parametrize("name", slow_except(("convnext_atto",), TIMM))
def test_timm(name):
    check(timm_network(name), noise(side_of(name)))


@pytest.mark.parametrize("name", slow_except(("Beit", "Swin", "ConvNext"), HUGGING_FACE))
def test_hugging_face(name):
    check(hugging_face_network(name), noise(side_of(name)))
