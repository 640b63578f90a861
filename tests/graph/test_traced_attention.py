"""Attention modules return one tensor, and encoders of torch are followed."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from dmn.graph.equal import require_equal
from dmn.graph.trace import trace
from dmn.nn.attention import AttentionOutput


class Tokens(nn.Module):
    """Tokens of images, a function of them, and a linear layer."""

    def __init__(self, block, call=None):
        super().__init__()
        self.embed, self.block = nn.Conv2d(2, 8, 2, 2), block
        self.fc = nn.Linear(8, 3)
        self.call = call or (lambda block, x: block(x))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(self.call(self.block, x).mean(1))


class Named(nn.MultiheadAttention):
    """Attention that differs by name only."""


def images():
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(2))


def attention(**options):
    return nn.MultiheadAttention(8, 2, batch_first=True, **options)


def unpacked(block, x):
    y, _ = block(x, x, x, need_weights=False)
    return x + y


def picked(block, x):
    return block(x, x, value=x)[0]


@pytest.mark.parametrize("call", [unpacked, picked])
@pytest.mark.parametrize(
    "make",
    [
        attention,
        lambda: attention(bias=False),
        lambda: parametrizations.weight_norm(attention(), "in_proj_weight"),
        lambda: Named(8, 2, batch_first=True),
    ],
)
def test_attention_is_one_node_of_one_tensor(make, call):
    model, x = Tokens(make(), call).eval(), images()
    traced = trace(model, example=x)
    network = traced.network
    assert not traced.unsupported
    assert type(network.block) is AttentionOutput
    assert not isinstance(model.block, AttentionOutput)
    assert traced.layers["block"].target == "block"
    assert "getitem" not in network.code
    assert network.state_dict().keys() <= {*model.state_dict(), "block.in_proj_weight"}
    for batch in (x, x[:1]):
        require_equal(network, model, batch, exact=True)
    with torch.no_grad():
        assert torch.equal(network(x), model(x))


def test_weights_that_are_read_are_reported():
    model = Tokens(attention(), lambda block, x: block(x, x, x)[1] @ x).eval()
    (refused,) = trace(model, example=images()).unsupported
    assert str(refused).startswith("block (MultiheadAttention): its weights are read")


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)


BLOCKS = {
    "layer": encoder_layer,
    "norm first": lambda: encoder_layer(norm_first=True, activation="gelu"),
    "encoder": lambda: nn.TransformerEncoder(
        encoder_layer(), 2, norm=nn.LayerNorm(8), enable_nested_tensor=False
    ),
    "two": lambda: nn.Sequential(encoder_layer(), encoder_layer(norm_first=True)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_encoders_of_torch_are_followed(name):
    """They are equal to what torch computes but for its kernels for a whole layer."""
    model, x = Tokens(BLOCKS[name]()).eval(), images()
    traced = trace(model, example=x)
    kinds = {type(module) for module in traced.network.modules()}
    assert {AttentionOutput, nn.LayerNorm} <= kinds
    assert not kinds & {nn.TransformerEncoder, nn.TransformerEncoderLayer}
    assert any(layer.endswith("self_attn") for layer in traced.layers)
    require_equal(traced.network, model, x, exact=True)
    with torch.no_grad():
        assert torch.allclose(traced.network(x), model(x), atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled()
