"""Small vision transformers in float64, and their forward passes written out step by step."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VisionTransformer

CLASSES = 3


def randomised(model):
    """Return a network in float64 and eval mode with random parameters, none of them 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            nn.init.normal_(parameter, std=size)
        for name, parameter in model.named_parameters():
            if "norm" in name.rpartition(".")[0] or ".ln" in name:
                parameter.add_(1.0 if name.endswith("weight") else 0.0)
    return model.double().eval()


def torchvision_vit():
    return randomised(VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=CLASSES))


def timm_vit(**options):
    timm = __import__("timm")
    sizes = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return randomised(timm.models.VisionTransformer(num_classes=CLASSES, **sizes, **options))


def blocks_of(model):
    """Return the parts of a network's blocks by the same names, whichever library wrote it."""
    if isinstance(model, VisionTransformer):
        return [
            SimpleNamespace(
                norm1=layer.ln_1,
                qkv=lambda x, a=layer.self_attention: F.linear(x, a.in_proj_weight, a.in_proj_bias),
                heads=layer.self_attention.num_heads,
                proj=layer.self_attention.out_proj,
                norm2=layer.ln_2,
                mlp=layer.mlp,
            )
            for layer in model.encoder.layers
        ]
    return [
        SimpleNamespace(
            norm1=block.norm1,
            qkv=block.attn.qkv,
            heads=block.attn.num_heads,
            proj=block.attn.proj,
            norm2=block.norm2,
            mlp=block.mlp,
        )
        for block in model.blocks
    ]


def embedded(model, x):
    """Return the tokens that enter the first block, (B, N, C)."""
    if isinstance(model, VisionTransformer):
        patches = model.conv_proj(x).flatten(2).transpose(1, 2)
        first = model.class_token.expand(len(x), -1, -1)
        return torch.cat([first, patches], dim=1) + model.encoder.pos_embedding
    patches = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    tokens = [t.expand(len(x), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
    if model.no_embed_class:
        return torch.cat([*tokens, patches + model.pos_embed], dim=1)
    return torch.cat([*tokens, patches], dim=1) + model.pos_embed


def read_out(model, tokens):
    """Return the logits that the head computes from the last tokens."""
    if isinstance(model, VisionTransformer):
        return model.heads(model.encoder.ln(tokens)[:, 0])
    tokens = model.norm(tokens)
    if model.global_pool == "token":
        return model.head(model.fc_norm(tokens[:, 0]))
    return model.head(model.fc_norm(tokens[:, model.num_prefix_tokens :].mean(dim=1)))


def forward(model, x):
    """Return logits (B, K) and the weights of each layer, (B, heads, N, N)."""
    tokens, weights = embedded(model, x), []
    for block in blocks_of(model):
        q, k, v = (
            t.unflatten(2, (block.heads, -1)).transpose(1, 2)
            for t in block.qkv(block.norm1(tokens)).chunk(3, dim=-1)
        )
        weights.append((q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1))
        tokens = tokens + block.proj((weights[-1] @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return read_out(model, tokens), weights
