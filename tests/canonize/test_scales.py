"""Layer scales become part of the linear operation before them, or of those after."""

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dmn.canonize import canonize, folding_report
from dmn.nn.attention import AttentionOutput

TOKENS, CHANNELS, BATCH = 5, 6, 2


pytestmark = pytest.mark.usefixtures("_double")


def difference(model, other, x):
    expected = model(x)
    return float((other(x) - expected).abs().max() / expected.abs().max())


def multiplications(network):
    return [node for node in network.graph.nodes if node.name.startswith("mul")]


class Scaled(nn.Module):
    """A block, moves, a scale by channel, and a residual addition."""

    def __init__(self, block, moves, shape):
        super().__init__()
        self.block, self.moves = block, moves
        self.gamma = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        y = self.block(x)
        for move in self.moves:
            y = move(y)
        return (y * self.gamma).tanh()


MOVES = {
    "dropout": F.dropout,
    "contiguous": lambda x, **_: x.contiguous(),
    "roll": lambda x, **_: x.roll(1, dims=1),
    "slice": lambda x, **_: x[:, 1:],
    "average of neighbours": lambda x, **_: F.avg_pool2d(x, (2, 1), stride=1),
}


@settings(max_examples=25, deadline=None)
@given(
    moves=st.lists(st.sampled_from(sorted(MOVES)), max_size=3),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_scales_of_tokens_fold_into_the_layer_before(moves, bias, seed):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    chosen = [lambda x, move=MOVES[name]: move(x, training=False) for name in moves]
    with torch.no_grad():
        model = Scaled(nn.Linear(CHANNELS, CHANNELS, bias), chosen, (CHANNELS,)).eval()
        x = torch.randn(BATCH, TOKENS, CHANNELS)
        ours = canonize(model, x)
        assert difference(model, ours, x) < 1e-10
    assert multiplications(ours) == []
    assert folding_report(ours).folded == ("mul (scale)",)


class Conv(nn.Module):
    """As in ConvNeXt: a linear layer on the last axis, and a scale by channel, the second."""

    def __init__(self):
        super().__init__()
        self.fc, self.scale = nn.Linear(CHANNELS, CHANNELS), nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x):
        y = self.fc(x.permute(0, 2, 3, 1))
        return x + self.scale * y.permute(0, 3, 1, 2)


class Attended(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = AttentionOutput(CHANNELS, 2, batch_first=True)
        self.scale = nn.Parameter(torch.randn(CHANNELS))

    def forward(self, x):
        return x + self.attention(x, x, x) * self.scale


class Norm(nn.Module):
    """A norm written out, whose weight can be part of the layers after it only."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS))
        self.fcs = nn.ModuleList(nn.Linear(CHANNELS, 3) for _ in range(2))

    def forward(self, x):
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        x = self.weight * x
        return self.fcs[0](x) + self.fcs[1](x[:, 1:].flip(1).flip(1)).mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (Conv, (BATCH, CHANNELS, 4, 3)),
        (Attended, (BATCH, TOKENS, CHANNELS)),
        (Norm, (BATCH, TOKENS, CHANNELS)),
    ],
)
def test_scales_fold_across_axes_attention_and_to_several_layers(build, shape):
    model, x = build().eval(), torch.randn(shape)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-12
    assert multiplications(ours) == []
    assert folding_report(ours).left == ()


class Twice(Conv):
    """The layer's output is used without the scale, too."""

    def forward(self, x):
        y = self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y.tanh() + self.scale * y


class ByRow(Conv):
    """A scale of another axis than that of the layer's channels."""

    def forward(self, x):
        return (self.fc(x.transpose(1, 3)) * self.scale).tanh()


@pytest.mark.parametrize("build", [Twice, ByRow])
def test_a_scale_that_no_layer_can_do_is_left_and_listed(build):
    model, x = build().eval(), torch.randn(BATCH, CHANNELS, CHANNELS, CHANNELS)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-15
    assert len(multiplications(ours)) == 1
    (left,) = folding_report(ours).left
    assert left.path == "mul (scale)"


def test_what_is_added_to_tokens_stays():
    """A position embedding is no bias, even where all tokens have the same."""

    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(CHANNELS, CHANNELS)
            self.position = nn.Parameter(torch.zeros(1, TOKENS, CHANNELS))

        def forward(self, x):
            return (self.fc(x) + self.position).tanh()

    model, x = Embedded().eval(), torch.randn(BATCH, TOKENS, CHANNELS)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-15
    assert "position" in ours.state_dict()
    assert folding_report(ours)[:3] == ((), (), ())


def test_layer_scales_of_timm():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5, init_values=0.3
    )
    model, x = model.double().eval(), torch.randn(2, 3, 32, 32)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-10
    assert multiplications(ours) == []
    assert sum("(scale)" in path for path in folding_report(ours).folded) == 4
