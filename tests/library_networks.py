"""Classifiers of timm and Hugging Face, with random weights: nothing is loaded."""

import importlib

import torch
from small_pairs import randomise
from torch import nn

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
            "swinv2_tiny_window8_256",
        ),
        256,
    ),
    "crossvit_tiny_240": 240,
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
_LARGE = {"initializer_range": 0.2}  # from less, activations vanish
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
    "MobileViT": {"image_size": 32, **_LARGE},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.5, **_LARGE},
    "MobileNetV2": {"image_size": 32, "depth_multiplier": 0.35, **_LARGE},
    "PoolFormer": {**_STAGES, "image_size": 32},
    "PvtV2": {"image_size": 32},
    "Segformer": {},
}


def timm_network(name: str) -> nn.Module:
    """Return a network of timm."""
    return drawn(importlib.import_module("timm").create_model(name, pretrained=False))


def hugging_face_network(name: str) -> nn.Module:
    """Return a small network of Hugging Face, for five classes."""
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{name}Config")(**HUGGING_FACE[name], num_labels=5)
    return drawn(getattr(transformers, f"{name}ForImageClassification")(config))


def drawn(model: nn.Module) -> nn.Module:
    """Draw statistics of BatchNorm, and what starts so small that blocks or heads do not count."""
    for parameter in model.parameters():
        first = float(parameter.detach().flatten()[0])
        if bool((parameter == first).all()):
            if first == 0 and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.05)
            elif 0 < first <= 0.1:
                nn.init.uniform_(parameter, 0.3, 1.5)
    return randomise(model).eval().requires_grad_(False)


def side_of(name: str) -> int:
    """Return the side of a network's images."""
    return TIMM[name] if name in TIMM else HUGGING_FACE[name].get("image_size", 32)


def noise(side: int, batch: int = 2) -> torch.Tensor:
    """Return images of noise."""
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
