"""Networks split at each image: attention, norms, gates and products, against the definition."""

import pytest
import torch
import torch.nn.functional as F
from literal_split import Literal
from small_pairs import randomise
from test_model import EPSILON, close, compare, pairs
from torch import nn

from dmn.nn import BackwardConfig, frozen
from dmn.nn.attention import AttentionOutput
from dmn.rules.local import hold
from dmn.split import split
from dmn.split.shift import NORM_ALPHA

TARGET = torch.tensor([2, 0])


def images(seed=0):
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed)).double()


class Around(nn.Module):
    """An operation between two convolutions, an activation and a head."""

    def __init__(self, operation, channels=4):
        super().__init__()
        self.stem, self.operation = nn.Conv2d(2, 4, 2), operation
        self.last, self.act = nn.Conv2d(channels, 4, 2), nn.GELU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.act(self.last(self.operation(self.stem(x)))).mean((2, 3)))


class Function(nn.Module):
    def __init__(self, function, **shapes):
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        return self.function(x, *self._parameters.values())


class ChannelsLast(nn.Module):
    """An operation on channels that come last, as LayerNorm of a ConvNeXt."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return self.operation(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), gate

    def forward(self, x):
        return x * self.gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Two(nn.Module):
    """A function of two activations."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.function(self.one(x), self.two(x))


class GlobalResponseNorm(nn.Module):
    """As in ConvNeXt V2, on channels that come last."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        norm = x.norm(p=2, dim=(1, 2), keepdim=True)
        share = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.bias, self.weight, x * share)


class Tokens(nn.Module):
    """Attention over the positions of an image, after a class token in front of them."""

    def __init__(self, attend):
        super().__init__()
        self.attend, self.first = attend, nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + self.attend(tokens)
        return tokens[:, 1:].transpose(1, 2).reshape(x.shape)


class OwnAttention(nn.Module):
    """Attention written out, by softmax and products, or by torch's function."""

    def __init__(self, fused, heads=2):
        super().__init__()
        self.fused, self.heads = fused, heads
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x):
        size, tokens, width = x.shape
        qkv = self.qkv(x).reshape(size, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            weights = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
            mixed = weights.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(size, tokens, width))


class ModuleAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = AttentionOutput(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self, attention):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(4), attention, nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return self.mlp(self.norm2(x))


def rms_by_hand(x, w):
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * w.view(-1, 1, 1)


def layer_norm_by_hand(x, w, b):
    centred = x - x.mean(1, keepdim=True)
    sigma = torch.sqrt(centred.var(1, unbiased=False, keepdim=True) + 1e-6)
    return w.view(-1, 1, 1) * (centred / sigma) + b.view(-1, 1, 1)


NETWORKS = {
    "layer_norm": lambda: Around(ChannelsLast(nn.LayerNorm(4))),
    "layer_norm_bare": lambda: Around(nn.LayerNorm((3, 3), elementwise_affine=False)),
    "layer_norm_function": lambda: Around(
        ChannelsLast(Function(lambda x, w, b: F.layer_norm(x, (4,), w, b, 1e-3), w=4, b=4))
    ),
    "rms_norm": lambda: Around(ChannelsLast(nn.RMSNorm(4))),
    "rms_norm_by_hand": lambda: Around(Function(rms_by_hand, w=4)),
    "layer_norm_by_hand": lambda: Around(Function(layer_norm_by_hand, w=4, b=4)),
    "group_norm": lambda: Around(nn.GroupNorm(2, 4)),
    "group_norm_function": lambda: Around(
        Function(lambda x, w, b: F.group_norm(x, 2, w, b), w=4, b=4)
    ),
    "instance_norm": lambda: Around(nn.InstanceNorm2d(4, affine=True)),
    "instance_norm_running": lambda: Around(
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "unit_length": lambda: Around(Function(lambda x: F.normalize(x, dim=1))),
    "response_norm": lambda: Around(ChannelsLast(GlobalResponseNorm())),
    "added_product": lambda: Around(
        Function(lambda x, b, w: torch.addcmul(b, w, x, value=-0.5), b=(4, 1, 1), w=(4, 1, 1))
    ),
    "sigmoid_gate": lambda: Around(SqueezeExcite(nn.Sigmoid())),
    "hardsigmoid_gate": lambda: Around(SqueezeExcite(nn.Hardsigmoid())),
    "tanh_gate": lambda: Around(Two(lambda a, b: torch.tanh(a) * b)),
    "expanded_gate": lambda: Around(
        Two(lambda a, b: a * torch.sigmoid(b.mean((2, 3), keepdim=True)).expand_as(a))
    ),
    "written_out_gate": lambda: Around(Two(lambda a, b: a * (F.relu6(b + 3) / 6))),
    "glu": lambda: Around(nn.GLU(1), 2),
    "glu_function": lambda: Around(Function(lambda x: F.glu(x, dim=1)), 2),
    "product": lambda: Around(Two(lambda a, b: a * b)),
    "square": lambda: Around(Function(lambda x: x * x)),
    "square_function": lambda: Around(Function(lambda x: torch.square(x))),
    "cube": lambda: Around(Function(lambda x: x**3)),
    "star_relu": lambda: Around(
        nn.Sequential(nn.ReLU(), Function(lambda x, s, b: s * x**2 + b, s=1, b=1))
    ),
    "broadcast": lambda: Around(Two(lambda a, b: a * b.mean((2, 3), keepdim=True))),
    "matmul": lambda: Around(Two(lambda a, b: a @ b.transpose(2, 3))),
    "einsum": lambda: Around(Two(lambda a, b: torch.einsum("bchw,bcvw->bchv", a, b))),
    "quotient": lambda: Around(Two(lambda a, b: a / (b * b + 1.0))),
    "attention_of_function": lambda: Around(Tokens(OwnAttention(fused=True))),
    "attention_by_hand": lambda: Around(Tokens(OwnAttention(fused=False))),
    "attention_module": lambda: Around(Tokens(ModuleAttention())),
    "block": lambda: Around(Tokens(Block(ModuleAttention()))),
    "two_blocks": lambda: Around(
        nn.Sequential(*(Tokens(Block(OwnAttention(fused=f))) for f in (True, False)))
    ),
}


def network(name):
    torch.manual_seed(0)
    model = randomise(NETWORKS[name]()).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.7)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_and_sensitivities_are_those_of_the_definition(name):
    model, x = network(name), images()
    ours = split(model, x, theta=1.0)
    literal = Literal(ours.network, x)
    with frozen(model):  # torch rounds linear layers otherwise if their weights require a gradient
        assert torch.equal(ours(x), model(x))
    close(ours.g(x), literal.p, "g")
    close(ours.h(x), literal.n, "h")
    layers = [layer for layer in ours.layers if literal.traced.layers[layer] in literal.streams]
    assert layers == list(ours.layers)
    for alpha in (0.0, 0.2, 0.5):
        literal.alpha = alpha
        expected = literal.sensitivities(TARGET)
        read = ours.read(x, TARGET, layers, BackwardConfig(alpha=alpha), ("g", "h", "g-h"))
        for layer in layers:
            as_image = ours._find_grids(x)[layer].to_image
            values = [as_image(s.detach()) for s in literal.streams[literal.traced.layers[layer]]]
            maps = [as_image(each) for each in expected[layer]]
            for side, deltas in zip("gh", pairs(maps), strict=True):
                compare(read[layer][side], values, deltas, f"{side} at {layer}, alpha {alpha}")
            g, h = (maps[at] for at in (0, 2))
            close(read[layer]["g-h"].delta_p, g - h, f"g-h at {layer}", float(g.abs().max()))


@pytest.mark.parametrize("recentring", [(1.0, 0.0), (0.0, 0.0), (0.1, 0.5)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_that_of_the_definition(name, alpha, recentring):
    model, x = network(name), images(1)
    theta, threshold = recentring
    ours = split(model, x, theta=theta, threshold=threshold)
    literal = Literal(ours.network, x, theta=theta, threshold=threshold)
    expected = literal.relevance(
        TARGET, EPSILON, lambda node: NORM_ALPHA if node in literal.norms else alpha
    )
    config = BackwardConfig("relevance", "class", EPSILON, alpha, alpha)
    read = ours.read(x, TARGET, ours.layers, config, ("g", "h"))
    for layer in ours.layers:
        maps = [ours._find_grids(x)[layer].to_image(each) for each in expected[layer]]
        for side, (relevance_p, relevance_n) in zip("gh", pairs(maps), strict=True):
            mine = read[layer][side]
            scale = float(max(relevance_p.abs().max(), relevance_n.abs().max()))
            close(mine.p * mine.delta_p, relevance_p, f"{side}+ at {layer}", scale)
            close(mine.n * mine.delta_n, relevance_n, f"{side}- at {layer}", scale)


def test_coefficients_have_no_layers():
    """Queries, keys and what leads to a gate hold no relevance, and need no rule."""
    ours = split(network("attention_by_hand"), images())
    assert not [name for name in ours.layers if "softmax" in name]
    ours = split(network("sigmoid_gate"), images())
    assert not {"operation.down", "operation.up", "operation.gate"} & set(ours.layers)
    marks = ours.network.graph.find_nodes(op="call_function", target=hold)
    assert len(marks) == 1
