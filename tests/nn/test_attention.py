"""The pieces of attention, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.nn.attention import (
    AttentionOutput,
    attention_weights,
    from_heads,
    module_weights,
    projection,
    to_heads,
)


@pytest.mark.parametrize("mask", [None, "bool", "numbers", "causal"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_weights_times_values_are_torchs_attention(mask, scale):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 6, 6))
    options = {"scale": scale, "is_causal": mask == "causal"}
    if mask == "bool":
        options["attn_mask"] = torch.rand(5, 6) < 0.7
        options["attn_mask"][:, 0] = True
    elif mask == "numbers":
        options["attn_mask"] = torch.randn(2, 1, 5, 6, dtype=torch.float64)
    weights = attention_weights(query, key, **options)
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(weights @ value, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 7, "vdim": 9}])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masks", [(), ("key_padding_mask",), ("attn_mask", "key_padding_mask")])
def test_the_pieces_of_a_module_make_its_output(batch_first, sizes, bias, masks):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias, **sizes).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    tokens = (5, 6, 6)
    widths = (8, sizes.get("kdim", 8), sizes.get("vdim", 8))
    inputs = [
        torch.randn(3, n, d, dtype=torch.float64) for n, d in zip(tokens, widths, strict=True)
    ]
    inputs = inputs if batch_first else [x.transpose(0, 1) for x in inputs]
    made = {
        "key_padding_mask": torch.arange(6).expand(3, 6) > 3,
        "attn_mask": torch.rand(6, 5, 6) < 0.3,
    }
    made["attn_mask"][:, :, 0] = False
    options = {name: made[name] for name in masks}
    module.eval()
    weights = module_weights(module, *inputs[:2], **options)
    values = to_heads(module, F.linear(inputs[2], *projection(module, "v")))
    output = module.out_proj(from_heads(module, weights @ values))
    expected, average = module(*inputs, **options)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weights.mean(1), average, rtol=1e-9, atol=1e-9)


def test_a_module_without_its_weights():
    module = nn.MultiheadAttention(8, 2).eval()
    x = torch.randn(5, 3, 8)
    expected, _ = module(x, x, x)
    module.__class__ = AttentionOutput
    assert torch.equal(module(x, x, x), expected)
