"""A small vision transformer in plain modules, as timm and others write it."""

import torch
from torch import nn


class Attention(nn.Module):
    """Multi-head attention by one projection of queries, keys and values."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        heads = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads.unbind(0))
        return self.proj(mixed.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention and an MLP, each after a norm and beside a shortcut."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A vision transformer with class and register tokens before those of the image.

    Args:
        prefix: Number of tokens that are not of the image.
        reads: Whether the head reads the first of these, or the mean of the image's tokens.
        width: Number of features.
    """

    def __init__(self, prefix, reads, width=12):
        super().__init__()
        self.prefix, self.reads = prefix, reads
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, prefix, width))
        self.blocks = nn.Sequential(Block(width, 2), Block(width, 2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.tokens.expand(len(x), -1, -1), x], 1))
        x = self.norm(x)
        return self.head(x[:, 0] if self.reads == "class token" else x[:, self.prefix :].mean(1))


def vit(reads="class token", prefix=1):
    """Return a small ViT with known weights, in eval mode."""
    torch.manual_seed(0)
    return SmallViT(prefix, reads).eval()
