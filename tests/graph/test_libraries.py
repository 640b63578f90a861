"""Classifiers of torchvision, timm and Hugging Face are traced bit for bit, one tensor per node."""

import importlib

import pytest
import torch
import torchvision
from effort import slow_except
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
TIMM = {  # by name, the side of its images
    **dict.fromkeys(
        (
            *("beit_base_patch16_224", "cait_xxs24_224", "coat_lite_tiny", "coatnet_pico_rw_224"),
            *("convit_tiny", "deit_tiny_distilled_patch16_224", "efficientformer_l1"),
            *("efficientformerv2_s0", "eva02_tiny_patch14_224", "hiera_tiny_224", "levit_128s"),
            *("mixer_s32_224", "mvitv2_tiny", "nest_tiny", "pit_ti_224", "resmlp_12_224"),
            *("swin_tiny_patch4_window7_224", "tiny_vit_5m_224", "tnt_s_patch16_224"),
            *("twins_pcpvt_small", "visformer_tiny", "vit_tiny_patch16_224", "volo_d1_224"),
            "xcit_nano_12_p16_224",
        ),
        224,
    ),
    **dict.fromkeys(
        (
            *("bat_resnext26ts", "botnet26t_256", "halonet26t", "maxvit_pico_rw_256"),
            *("swinv2_tiny_window8_256", "crossvit_tiny_240"),
        ),
        256,
    ),
    **dict.fromkeys(
        (
            *("convformer_s18", "convmixer_768_32", "convnext_atto", "convnextv2_atto"),
            *("davit_tiny", "densenet121", "dla34", "edgenext_xx_small", "efficientnet_b0"),
            *("efficientvit_b0", "fastvit_t8", "focalnet_tiny_srf", "ghostnet_050"),
            *("hrnet_w18_small", "mambaout_femto", "mobilenetv3_small_050"),
            *("mobilenetv4_conv_small", "mobilevit_xxs", "mobilevitv2_050", "nfnet_f0"),
            *("poolformerv2_s12", "pvt_v2_b0", "regnety_002", "repvit_m0_9", "resnest14d"),
            *("resnet18", "rexnet_100", "skresnet18", "swiftformer_xs"),
        ),
        64,
    ),
}
_TOKENS = {
    **{"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 32},
}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_WINDOWS = {
    **{"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]},
    "window_size": 4,
}
HUGGING_FACE = {  # by name, options of the config
    "ViT": _TOKENS,
    "DeiT": _TOKENS,
    "Beit": {**_TOKENS, "use_relative_position_bias": True},
    "Data2VecVision": {**_TOKENS, "use_relative_position_bias": True},
    "Dinov2": _TOKENS,
    "Dinov2WithRegisters": _TOKENS,
    "Swin": _WINDOWS,
    "Swinv2": _WINDOWS,
    "ConvNext": _STAGES,
    "ConvNextV2": _STAGES,
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "MobileViT": {"image_size": 32},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.5},
    "MobileNetV2": {"image_size": 32, "depth_multiplier": 0.35},
    "PoolFormer": {**_STAGES, "image_size": 32},
    "PvtV2": {"image_size": 32},
    "Segformer": {},
}


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


def noise(side, batch=2):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


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
    import timm

    side = 240 if name.startswith("crossvit") else TIMM[name]
    check(timm.create_model(name, pretrained=False), noise(side))


@pytest.mark.parametrize("name", slow_except(("Beit", "Swin", "ConvNext"), HUGGING_FACE))
def test_hugging_face(name):
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{name}Config")(**HUGGING_FACE[name], num_labels=5)
    side = HUGGING_FACE[name].get("image_size", 32)
    check(getattr(transformers, f"{name}ForImageClassification")(config), noise(side))
