"""What the tracer cannot follow is captured by torch.export: the same function, the same names."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.errors import UnsupportedError
from dmn.graph.equal import require_equal
from dmn.graph.exported import capture
from dmn.graph.trace import trace
from dmn.rules import Rule, add_rule
from dmn.rules.table import RULES, is_known
from dmn.split import split

FILTERS = {8: 2.0, 12: 3.0}  # by the side of the images


class Swish(torch.autograd.Function):
    """As networks have it that save memory in training."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, signal):
        raise NotImplementedError


def looked_up(self, x):
    return x * FILTERS[x.shape[2]]


def with_its_own_gradient(self, x):
    return Swish.apply(x)


def constant_written(self, x):
    scale = torch.ones(4)
    scale[0] = 0.5
    scale[1] = x[0, 0, 0, 0] * 0
    return x * scale.view(1, -1, 1, 1)


FUNCTIONS = [looked_up, with_its_own_gradient, constant_written]


class Output(NamedTuple):
    features: Tensor
    logits: Tensor


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.act(self.norm(self.conv(x)))
        y += x
        return y


class Network(nn.Module):
    def __init__(self, function, head=None):
        super().__init__()
        self.stem, self.function = nn.Conv2d(3, 4, 1), function
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = head or nn.Linear(4, 5)
        self.gain = nn.Parameter(torch.rand(4))

    def forward(self, pixels, labels=None):
        x = self.function(self, self.stem(pixels))
        for layer in self.layers:
            x = layer(x)
        pooled = F.gelu(x.mean((2, 3))) * self.gain
        return Output(features=x, logits=self.head(pooled))


def images(batch=2, side=8):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(4))


def network(function, *args):
    model = Network(function, *args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_is_the_same_function_for_batches_of_all_sizes(function):
    model, x = network(function), images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    traced = trace(model, is_known, x)
    assert not traced.unsupported
    for batch in (2, 1, 5):
        require_equal(traced.network, model, images(batch), exact=True)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_modules_and_names_are_those_of_the_network():
    model = network(looked_up)
    traced = trace(model, is_known, images())
    kept = {"input", "stem", "layers.0", "layers.0.conv", "layers.0.act", "layers.1", "head"}
    assert kept <= traced.layers.keys()
    assert {"mul", "mean", "gelu", "layers.0.add", "mul_1"} & traced.layers.keys()
    assert traced.layers["layers.0.conv"].op == "call_module"
    assert type(traced.network.get_submodule("layers.1.norm")) is nn.BatchNorm2d
    assert not traced.network.get_submodule("layers.0.act").inplace
    assert traced.network.state_dict().keys() == model.state_dict().keys()
    assert traced.layers["input"].target == "pixels"


def test_a_split_of_it_is_exact():
    model, x = network(looked_up), images()
    ours = split(model, x)
    assert torch.equal(ours(x), model(x).logits)
    assert {"input", "layers.0", "layers.1.conv"} <= set(ours.layers)


class Doubled(nn.Module):
    """Kept whole, as it has a rule; its code is not followed."""

    def forward(self, x):
        return x + x


def test_modules_with_rules_are_kept_whole():
    add_rule(Doubled, Rule())
    try:
        model, x = network(looked_up, nn.Sequential(Doubled(), nn.Linear(4, 5))), images()
        traced = trace(model, is_known, x)
        assert isinstance(traced.network.get_submodule("head.0"), Doubled)
        require_equal(traced.network, model, x, exact=True)
    finally:
        del RULES[Doubled]


@pytest.mark.parametrize(
    "other", [images(2, 12), images().double(), images()[0]], ids=["side", "type", "rank"]
)
def test_images_of_another_kind_are_refused(other):
    traced = trace(network(looked_up), is_known, images())
    with pytest.raises(UnsupportedError, match="the forward at Network goes another way"):
        traced.network(other)


# What each operation is written as; all of them on a tensor (B, 4, 8, 8) of the stem.
OPERATIONS = {
    "slices": lambda x: x[:, 1:, ::2, -3] + x[:, :3, 4:, 0],
    "pieces": lambda x: torch.cat([x.chunk(2, 1)[1], x.split([1, 3], 1)[1]], 1),
    "unbound": lambda x: torch.stack(x.unbind(1)[::2], 1),
    "indices": lambda x: x[:, torch.tensor([0, 2])],
    "item set": lambda x: _set(x),
    "mask set": lambda x: _set_where(x),
    "clamped in place": lambda x: F.hardtanh(F.silu(x * 1, inplace=True), -0.1, 0.2, inplace=True),
    "pools": lambda x: F.max_pool2d(x, 2) + F.avg_pool2d(x, 2) + F.max_pool2d(x, 3, 2, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 3) + F.adaptive_max_pool2d(x, 3),
    "layer norm": lambda x: F.layer_norm(x, (8, 8)) + F.group_norm(x, 2),
    "rms norm": lambda x: F.rms_norm(x, (8,)) + F.instance_norm(x),
    "unit length": lambda x: F.normalize(x, dim=1),
    "softmax": lambda x: x.softmax(1) + F.log_softmax(x, dim=1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcdh", x, x),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    "bicubic": lambda x: F.interpolate(x, size=(5, 7), mode="bicubic", antialias=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=1.5),
    "padded": lambda x: F.pad(F.pad(x, (1, 1)), (0, 0, 2, 2), mode="reflect"),
    "unfolded": lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
    "shuffled": lambda x: F.pixel_shuffle(x, 2),
    "activations": lambda x: F.elu(x) + F.mish(x) + F.gelu(x, approximate="tanh") + F.softplus(x),
    "kinds": lambda x: x.double().float().to(torch.float64).type_as(x),
    "largest": lambda x: x.amax(1) + x.max(1).values + x.topk(2, 1)[0][:, 0],
    "made": lambda x: x + torch.arange(8.0) + torch.zeros_like(x) + x.new_ones(8, 1),
    "norm": lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-3),
    "rolled": lambda x: torch.roll(x, (1, -1), (2, 3)).flip(1).repeat_interleave(2, 2),
}


def _set(x):
    y = x.clone()
    y[:, 0] += 1
    y[:, 1:, 0] = 0.5
    return y


def _set_where(x):
    y = x * 2
    y[y < 0] = 0.0
    y[:, [0, 1]] = y[:, [1, 0]]
    return y


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_written_as_calls_of_torch(name):
    def function(self, x):
        return OPERATIONS[name](x).flatten(1).mean(1)[:, None, None, None] + x * FILTERS[x.shape[2]]

    model, x = network(function), images(3)
    traced = trace(model, is_known, x)
    assert not traced.unsupported
    assert not any("aten" in str(node.target) for node in traced.network.graph.nodes)
    assert all(not str(node.target).endswith("_") for node in traced.network.graph.nodes)
    require_equal(traced.network, model, x, exact=True)
    require_equal(traced.network, model, images(1), exact=True)


def by_value(self, x):
    return x * (FILTERS[x.shape[2]] if x.sum() > 0 else 1)


def times_a_value(self, x):
    return x * float(x.max()) * FILTERS[x.shape[2]]


@pytest.mark.parametrize("function", [by_value, times_a_value])
def test_what_depends_on_values_is_refused_with_both_reasons(function):
    with pytest.raises(UnsupportedError, match=r"at the model itself.*torch.export") as told:
        trace(network(function), is_known, images())
    assert len(told.value.lines) == 1


def test_without_an_example_nothing_is_exported():
    with pytest.raises(UnsupportedError) as told:
        trace(network(looked_up), is_known)
    assert "torch.export" not in str(told.value)


def test_a_module_of_many_inputs_is_followed_though_it_is_to_be_kept():
    class Attended(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            x = F.avg_pool2d(x, 8)[:, :1].expand(-1, 4, -1, -1).flatten(2).transpose(1, 2)
            return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))

    model = Attended().eval()
    captured = capture(model, lambda module: type(module).__module__.startswith("torch"), images())
    names = [getattr(node.target, "__name__", node.target) for node in captured.graph.nodes]
    assert "scaled_dot_product_attention" in names
    assert "fc" in names
