"""Weights and biases of norms become part of what follows, where this is exact."""

import re
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models
from torchvision.models.convnext import LayerNorm2d

from dmn.canonize import canonize, folding_report

TOKENS, CHANNELS, BATCH = 5, 6, 2


pytestmark = pytest.mark.usefixtures("_double")


def drawn(model, seed=0):
    """Draw all scales, shifts and running statistics, away from 1 and 0."""
    random = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        for name, value in [*layer.named_parameters(recurse=False)]:
            if value.dim() <= 1 or "scale" in name or not value.any():
                value += 0.4 * torch.randn(value.shape, generator=random)
        for name, value in layer.named_buffers(recurse=False):
            if name == "running_mean":
                value += 0.3 * torch.randn(value.shape, generator=random)
            if name == "running_var":
                value *= 0.1 * (0.5 + torch.rand(value.shape, generator=random))
    return model.double().eval()


def difference(model, other, x):
    expected = model(x)
    return float((other(x) - expected).abs().max() / expected.abs().max())


def affine_norms(network):
    """Return the norms of images that still have a weight or a bias, modules and functions."""
    kinds = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm2d)
    functions = (F.layer_norm, F.rms_norm, F.group_norm)
    modules = [
        name
        for name, module in network.named_modules()
        if isinstance(module, kinds) and list(module.parameters(recurse=False))
    ]
    nodes = [node for node in network.graph.nodes if node.target in functions]
    return modules + [node.name for node in nodes if reads(node)]


def reads(node):
    return [source for source in node.all_input_nodes if source.op == "get_attr"]


class Move(nn.Module):
    """A function that moves numbers, in a module of its own."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class SelfAttention(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.attention = nn.MultiheadAttention(CHANNELS, 2, bias=bias, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Projections(nn.Module):
    """Query, key and value by layers of their own."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(CHANNELS, 4, bias=i > 0) for i in range(3))

    def forward(self, x):
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


class Functional(nn.Module):
    """A linear function of a joint bias, as of BEiT."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, CHANNELS))
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return F.linear(x, self.weight, bias=torch.cat((self.q_bias, self.v_bias)))


NORMS_OF_TOKENS = {
    "LayerNorm": lambda: nn.LayerNorm(CHANNELS),
    "LayerNorm without bias": lambda: nn.LayerNorm(CHANNELS, bias=False),
    "RMSNorm": lambda: nn.RMSNorm(CHANNELS),
    "LayerNorm of all": lambda: nn.LayerNorm((TOKENS, CHANNELS)),
}
MOVES_OF_TOKENS = {
    "dropout": nn.Dropout,
    "identity": nn.Identity,
    "roll": lambda: Move(lambda x: x.roll(1, dims=1)),
    "slice": lambda: Move(lambda x: x[..., 1:, :]),
    "one token more": lambda: Move(lambda x: x.unsqueeze(1)),
    "there and back": lambda: Move(lambda x: x.transpose(1, -1).contiguous().transpose(1, -1)),
    "heads": lambda: Move(lambda x: x.reshape(*x.shape[:-1], 2, 3).flatten(-2)),
    "channels reversed": lambda: Move(lambda x: x.flip(-1)),
}
USERS_OF_TOKENS = {
    "Linear": lambda: nn.Linear(CHANNELS, 3),
    "Linear without bias": lambda: nn.Linear(CHANNELS, 3, bias=False),
    "Projections": Projections,
    "Functional": Functional,
}


@settings(max_examples=25, deadline=None)
@given(
    norm=st.sampled_from(sorted(NORMS_OF_TOKENS)),
    moves=st.lists(st.sampled_from(sorted(MOVES_OF_TOKENS)), max_size=3),
    user=st.sampled_from(sorted(USERS_OF_TOKENS)),
    seed=st.integers(0, 1000),
)
def test_norms_of_tokens_fold_through_moves(norm, moves, user, seed):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    parts = [MOVES_OF_TOKENS[name]() for name in moves]
    model = nn.Sequential(NORMS_OF_TOKENS[norm](), *parts, USERS_OF_TOKENS[user](), nn.Tanh())
    drawn(model, seed)
    x = torch.randn(BATCH, TOKENS, CHANNELS)
    with torch.no_grad():
        ours = canonize(model, x)
        assert difference(model, ours, x) < 1e-10
    left = bool(affine_norms(ours))
    assert left == (norm == "LayerNorm of all")  # its weight differs by token
    assert len(folding_report(ours).left) == left


@pytest.mark.parametrize("move", [lambda x: x[:, 0], lambda x: x.mean(1), lambda x: x.flatten(1)])
@pytest.mark.parametrize("norm", NORMS_OF_TOKENS)
def test_norms_fold_into_a_head(norm, move):
    head = nn.LazyLinear(3)
    model = nn.Sequential(NORMS_OF_TOKENS[norm](), Move(move), head)
    x = torch.randn(BATCH, TOKENS, CHANNELS)
    model(x)
    drawn(model)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-10
    averages_weights = norm == "LayerNorm of all" and move(x)[0].equal(x[0].mean(0))
    assert bool(affine_norms(ours)) == averages_weights


NORMS_OF_MAPS = {
    "GroupNorm": lambda: nn.GroupNorm(3, CHANNELS),
    "GroupNorm of one group": lambda: nn.GroupNorm(1, CHANNELS),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "LayerNorm2d": lambda: LayerNorm2d(CHANNELS),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("padding", "mode"), [(0, "zeros"), ("valid", "zeros"), (1, "replicate"), (1, "zeros")]
)
@pytest.mark.parametrize("norm", NORMS_OF_MAPS)
def test_norms_of_maps_fold_into_convolutions(norm, padding, mode, groups):
    options = {"padding": padding, "padding_mode": mode, "groups": groups}
    model = drawn(nn.Sequential(NORMS_OF_MAPS[norm](), nn.Conv2d(CHANNELS, 4, 3, **options)))
    x = torch.randn(BATCH, CHANNELS, 7, 5)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-10
    (left,) = folding_report(ours).left or (None,)
    assert bool(affine_norms(ours)) == bool(left) == (padding == 1 and mode == "zeros")
    if left:
        assert "pads by zeros, where the bias would be missing" in left.needs


def test_without_a_bias_zeros_may_be_padded():
    class Net(nn.Sequential):
        def forward(self, x):
            x = F.rms_norm(x.permute(0, 2, 3, 1), (CHANNELS,), self[0].weight)
            return self[1](x.permute(0, 3, 1, 2))

    model = drawn(Net(nn.RMSNorm(CHANNELS), nn.Conv2d(CHANNELS, 4, 3, padding=1)))
    x = torch.randn(BATCH, CHANNELS, 7, 5)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-10
    assert affine_norms(ours) == []
    assert folding_report(ours).folded == ("rms_norm (rms_norm)",)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["LayerNorm", "LayerNorm without bias", "RMSNorm"])
def test_norms_fold_into_the_projections_of_attention(norm, bias):
    model = drawn(nn.Sequential(NORMS_OF_TOKENS[norm](), nn.Dropout(), SelfAttention(bias)))
    x = torch.randn(BATCH, TOKENS, CHANNELS)
    for example in (x, None):
        ours = canonize(model, example)
        assert difference(model, ours, x) < 1e-10
        assert affine_norms(ours) == []


class Cross(nn.Module):
    """Attention from tokens to others, of another width, by norms of their own."""

    def __init__(self):
        super().__init__()
        self.norm_q, self.norm_kv = nn.LayerNorm(CHANNELS), nn.LayerNorm(4)
        self.embed = nn.Linear(CHANNELS, 4)
        self.attention = nn.MultiheadAttention(CHANNELS, 2, kdim=4, vdim=4, batch_first=True)
        self.values = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, x):
        other = self.norm_kv(self.embed(x).tanh())
        x = self.attention(self.norm_q(x), other, value=other)[0]
        return self.values(x.tanh(), x.sin(), x)[0]


def test_query_key_and_value_may_come_from_several_norms():
    model, x = drawn(Cross()), torch.randn(BATCH, TOKENS, CHANNELS)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-10
    assert affine_norms(ours) == []


def test_the_fold_by_its_definition():
    """Normalise, scale, shift and multiply by a matrix number by number."""
    norm, linear = nn.LayerNorm(3, eps=0.01), nn.Linear(3, 2)
    model = drawn(nn.Sequential(norm, linear))
    ours = canonize(model)
    x = torch.randn(3)
    mean = sum(x) / 3
    deviation = (sum((value - mean) ** 2 for value in x) / 3 + 0.01) ** 0.5
    normalised = [(value - mean) / deviation for value in x]
    assert torch.allclose(ours.get_submodule("0")(x), torch.stack(normalised), atol=1e-14)
    for row in range(2):
        weight, bias = linear.weight[row], linear.bias[row]
        folded = ours.get_submodule("1")
        for column in range(3):
            expected = weight[column] * norm.weight[column]
            assert torch.allclose(folded.weight[row, column], expected, rtol=1e-14)
        shifted = bias + sum(weight[column] * norm.bias[column] for column in range(3))
        assert torch.allclose(folded.bias[row], shifted, rtol=1e-14)


class PostNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        x = self.norm(x)
        return x + self.fc(x)


class Tied(PostNorm):
    def forward(self, x):
        return F.linear(self.fc(self.norm(x)), self.fc.weight)


class OfTokens(PostNorm):
    def forward(self, x):
        return self.fc(self.norm(x).transpose(1, 2))


class Given(PostNorm):
    def forward(self, x):
        return self.fc(F.layer_norm(x, (CHANNELS,), self.norm(x)[0, 0], None))


class WeightRead(PostNorm):
    def forward(self, x):
        return self.fc(self.norm(x)) + self.norm.weight


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (PostNorm, r"its output goes to add \(Add\), which is not linear"),
        (lambda: nn.Sequential(nn.LayerNorm(CHANNELS), nn.ReLU()), r"goes to 1 \(ReLU\), which is"),
        (lambda: nn.Sequential(nn.LayerNorm(CHANNELS)), "its output is that of the network"),
        (Tied, r"goes to fc \(Linear\), whose weights are used elsewhere, too"),
        (OfTokens, r"goes to fc \(Linear\), whose weights are for other axes"),
        (Given, "its weight or bias depends on the image"),
        (WeightRead, "its weight or bias is used elsewhere, too"),
    ],
)
def test_what_is_left_is_listed_with_the_reason(model, reason):
    model = drawn(model())
    x = torch.randn(BATCH, CHANNELS, CHANNELS)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-12
    reasons = [node.needs for node in folding_report(ours).left]
    assert any(re.search(reason, needs) for needs in reasons), reasons


def test_without_an_example_only_what_follows_directly_takes_the_fold():
    model = drawn(nn.Sequential(nn.LayerNorm(CHANNELS), nn.Dropout(), nn.Linear(CHANNELS, 2)))
    x = torch.randn(BATCH, TOKENS, CHANNELS)
    assert affine_norms(canonize(model)) == []
    assert difference(model, canonize(model), x) < 1e-12
    maps = drawn(nn.Sequential(LayerNorm2d(CHANNELS), nn.Conv2d(CHANNELS, 2, 1)))
    (left,) = folding_report(canonize(maps)).left
    assert "pass `example`" in left.needs
    groups = drawn(nn.Sequential(nn.GroupNorm(2, CHANNELS), nn.Conv2d(CHANNELS, 2, 1)))
    (left,) = folding_report(canonize(groups)).left
    assert "pass `example`" in left.needs


def test_one_norm_for_two_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS)

        def forward(self, x):
            return self.fc(self.norm(self.fc(self.norm(x)).tanh()))

    model, x = drawn(Twice()), torch.randn(BATCH, CHANNELS)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-12
    assert affine_norms(ours) == []


VIT = partial(models.VisionTransformer, 16, 4, 2, 2, 8, 16, num_classes=5)
NETWORKS = {  # how many norms keep their weight, and how many scales stay
    "vit": (VIT, 16, 0),
    "convnext": (
        lambda: models.ConvNeXt(
            [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 2)],
            num_classes=5,
        ),
        32,
        1,
    ),
    "mobilenet_v3": (lambda: models.mobilenet_v3_small(num_classes=5), 32, 0),
    "timm vit": (
        lambda: timm.create_model(
            "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5, init_values=0.1
        ),
        32,
        0,
    ),
    "timm convnextv2": (
        lambda: timm.create_model("convnextv2_atto", depths=(1, 1, 1, 1), num_classes=5),
        32,
        1,
    ),
    "timm mobilenet_v3": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=5), 32, 0),
}


def test_windows_that_some_images_do_not_fill_are_exact_for_all():
    """The first block of this Swin pads none of 32 pixels, but one row of tokens of 30."""
    torch.manual_seed(0)
    model = drawn(models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=3))
    ours = canonize(model, torch.randn(1, 3, 32, 32))
    reasons = {node.path: node.needs for node in folding_report(ours).left}
    assert "features.1.0.attn.pad (pad), which mixes" in reasons["features.1.0.norm1 (LayerNorm)"]
    for size in (32, 30):
        x = torch.randn(2, 3, size, size)
        assert difference(model, ours, x) < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    build, size, left = NETWORKS[name]
    torch.manual_seed(0)
    model = drawn(build())
    x = torch.randn(2, 3, size, size)
    ours = canonize(model, x)
    logits = model(x)
    assert (logits[0] - logits[1]).abs().max() > 1e-4 * logits.abs().max()
    assert difference(model, ours, x) < 1e-10
    report = folding_report(ours)
    assert len(affine_norms(ours)) == len(report.left) == left
    assert report.replaced == ()
    again = canonize(ours, x)
    assert torch.equal(again(x), ours(x))
    assert folding_report(again).folded == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "regnet_y_400mf"])
def test_larger_networks(name):
    torch.manual_seed(0)
    model, x = drawn(models.get_model(name, num_classes=5)), torch.randn(2, 3, 64, 64)
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-10
    assert len(folding_report(ours).left) == (name == "convnext_tiny")
    assert not any("BatchNorm" in type(module).__name__ for module in ours.modules())
