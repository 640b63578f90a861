"""Attention in pieces: its projections, its weights, and a module that returns its output alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionOutput(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` that returns its output without the weights.

    A trace makes its copies of these modules such, as every node of its graph is one tensor.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Return the output of attention, in the shape of the query."""
        output, _ = super().forward(*args, **kwargs)
        return output


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(Q K^T scale + mask), the weights of scaled dot-product attention.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        attn_mask: Broadcasts to (..., L, S). Bool for the positions to look at, or numbers to add.
        is_causal: Whether position i looks at positions up to i only.
        scale: Of the products; None for 1 / sqrt(E).

    Returns:
        Weights (..., L, S), >= 0; each row sums up to 1.

    Source: Vaswani et al. 2017, Attention Is All You Need, eq. 1.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~ones.tril(), float("-inf"))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1)


def projection(attention: nn.MultiheadAttention, name: str) -> tuple[Tensor, Tensor | None]:
    """Return the weight and the bias by which attention projects its query, key or value.

    Args:
        attention: Any.
        name: "q", "k" or "v".
    """
    position, width = "qkv".index(name), attention.embed_dim
    rows = slice(position * width, (position + 1) * width)
    joint, bias = attention.in_proj_weight, attention.in_proj_bias
    weight = getattr(attention, f"{name}_proj_weight") if joint is None else joint[rows]
    return weight, None if bias is None else bias[rows]


def to_heads(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Divide projected tokens among the heads.

    Args:
        attention: Says how many heads there are, and whether the batch comes first.
        x: (B, L, E) if it does, otherwise (L, B, E).

    Returns:
        (B, heads, L, E / heads).
    """
    x = x if attention.batch_first else x.transpose(0, 1)
    return torch.unflatten(x, -1, (attention.num_heads, -1)).transpose(1, 2)


def from_heads(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Join the heads again; the inverse of `to_heads`."""
    joined = x.transpose(1, 2).flatten(-2)
    return joined if attention.batch_first else joined.transpose(0, 1)


def module_weights(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """Return the weights of a module's attention, by head.

    Args:
        attention: Without `bias_k`, `bias_v` and `add_zero_attn`.
        query: What the module is given, (B, L, E) or (L, B, E).
        key: Likewise, with S tokens.
        key_padding_mask: (B, S). True, or minus infinity, for tokens to ignore.
        attn_mask: (L, S) or (B heads, L, S). True, or minus infinity, for pairs to ignore.

    Returns:
        (B, heads, L, S), >= 0.
    """
    queries, keys = (
        to_heads(attention, F.linear(x, *projection(attention, name)))
        for x, name in ((query, "q"), (key, "k"))
    )
    return attention_weights(queries, keys, module_mask(queries, key_padding_mask, attn_mask))


def module_mask(
    queries: Tensor, key_padding_mask: Tensor | None = None, attn_mask: Tensor | None = None
) -> Tensor | None:
    """Return the masks of a module's attention as one that is added to the scores.

    Args:
        queries: (B, heads, L, E / heads).
        key_padding_mask: As in `module_weights`.
        attn_mask: As in `module_weights`.

    Returns:
        What broadcasts to (B, heads, L, S), or None if there is no mask.
    """
    mask: Tensor | None = None
    if attn_mask is not None:
        mask = _to_add(attn_mask, queries)
        mask = mask.view(len(queries), -1, *mask.shape[1:]) if mask.dim() == 3 else mask
    if key_padding_mask is not None:
        ignored = _to_add(key_padding_mask, queries)[:, None, None]
        mask = ignored if mask is None else mask + ignored
    return mask


def _to_add(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add."""
    if mask.dtype != torch.bool:
        return mask.to(like)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
