"""Tracing: what overwrites becomes out of place, names stay, and what no graph holds is refused."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torchvision.ops import StochasticDepth

from dmn.canonize import canonize
from dmn.errors import UnsupportedError
from dmn.graph.trace import trace
from dmn.split import split


class Network(nn.Module):
    """A function of what two convolutions return, and a head."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(2, 4, 3)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        y = self.conv(x)
        return self.function(self, y) if self._modules.keys() > {"conv"} else self.function(y)


def images():
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def head(*tensors):
    return torch.cat(tensors, 1).mean((2, 3))


def twice(y):
    """Overwrite, and read by both names."""
    z = y.relu_()
    z.mul_(2)
    return head(y, z)


def chain(y):
    y += 1
    z = y
    z *= -0.5
    z -= 0.3
    z /= 2
    return head(z, y)


def numbers(y):
    """Let numbers be added to in place: the tensor and the other name stay."""
    width = y.size(2)
    total = width
    total += 1
    return head(y * width, y * total)


def in_place(function):
    def overwritten(y):
        z = function(y)
        return head(y, z)

    return overwritten


OVERWRITING = {
    "method": in_place(lambda y: y.relu_()),
    "function": in_place(torch.relu_),
    "functional": in_place(F.relu_),
    "argument": in_place(lambda y: F.relu(y, inplace=True)),
    "position": in_place(lambda y: F.leaky_relu(y, 0.3, True)),
    "leaky": in_place(lambda y: F.leaky_relu_(y, 0.3)),
    "elu": in_place(lambda y: F.elu(y, inplace=True)),
    "hardtanh": in_place(lambda y: F.hardtanh_(y, -0.1, 0.2)),
    "clamp": in_place(lambda y: y.clamp_(min=0.1)),
    "tanh": in_place(torch.tanh_),
    "sub": in_place(lambda y: y.sub_(0.5)),
    "neg": in_place(lambda y: y.neg_()),
    "dropout": in_place(lambda y: F.dropout(y, 0.5, False, True).relu_()),
    "twice": twice,
    "chain": chain,
    "numbers": numbers,
    "before": lambda y: head(y * 3, y.relu_(), y),
    "itself": lambda y: head(y.add_(y), y),
    "view read no more": lambda y: head(y.view(2, 4, 4, 4).relu_()),
    "other view": lambda y: head(y[:, :2].clone().relu_(), y),
}
REFUSED = {
    "view": lambda y: head(y.view(2, 2, 8, 4).relu_().view(2, 4, 4, 4), y),
    "piece": lambda y: (lambda p: head(p[0].relu_(), y))(y.chunk(2, 1)),
    "unbound": lambda y: (lambda a: head(a.relu_()[:, None], y))(y.unbind(1)[0]),
    "narrow": lambda y: head(y.narrow(1, 0, 2).relu_(), y),
    "select": lambda y: head(y.select(1, 0).relu_()[:, None], y),
    "movedim": lambda y: head(torch.movedim(y, 2, 3).relu_(), y),
    "swapaxes": lambda y: head(y.swapaxes(2, 3).relu_(), y),
    "expand_as": lambda y: head(y[:, :1].view_as(y[:, :1]).relu_(), y),
    "transpose": lambda y: head(y.transpose(2, 3).contiguous().relu_(), y),
    "of a view": lambda y: head(y.permute(0, 1, 3, 2)[:, :1].tanh_(), y),
    "depth": lambda y: (lambda z: head(y.relu_(), z))(F.dropout2d(y, 0.3, False)),
}


@pytest.mark.parametrize("name", OVERWRITING)
def test_what_reads_an_overwritten_value_reads_the_new_one(name):
    model, x = Network(OVERWRITING[name]).eval(), images()
    traced = trace(model)
    with torch.no_grad():
        expected = model(x.clone())
    assert not traced.unsupported
    assert torch.equal(traced.network(x), expected)
    assert torch.equal(split(model, x)(x), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_overwriting_what_another_view_shows_is_refused(name):
    model = Network(REFUSED[name]).eval()
    with pytest.raises(UnsupportedError, match="a view of a tensor that is used again") as caught:
        split(model.to("meta"))
    assert len(caught.value.nodes) >= 1


@pytest.mark.parametrize(
    "alias",
    [
        *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        lambda: StochasticDepth(0.5, "row"),
        lambda: nn.Dropout(inplace=True),
    ],
)
def test_modules_that_return_what_they_got_are_views(alias):
    model = Network(lambda self, y: head(F.relu_(self.alias(y)), y), alias=alias()).eval()
    x = images()
    with torch.no_grad():
        expected = model(x)
    try:
        ours = split(model)
    except UnsupportedError as error:
        assert "used again" in str(error)  # noqa: PT017
    else:
        assert torch.equal(ours(x), expected)


def test_modules_that_overwrite_are_switched_off_in_the_copy_only():
    shared = nn.ReLU(inplace=True)

    def function(self, y):
        z = self.relu(y)
        a = self.other(y + z)
        return head(y, z, self.relu(a), a)

    model = Network(function, relu=shared, other=nn.Hardtanh(-0.2, 0.3, inplace=True)).eval()
    x = images()
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(split(model, x)(x), expected)
    assert model.relu.inplace
    assert model.other.inplace


# -- names ---------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.conv(x))
        out += x
        return F.relu(self.relu(out) * 2)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Block(2), Block(2))
        self.again = self.layer1[0].conv  # one module by two names
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        x = self.again(self.layer1(x) + 1) + 1
        return self.fc(torch.flatten(x.mean([2, 3]), 1))


def test_every_call_has_a_name():
    x = images()
    model = Named().eval()
    layers = split(model, x).layers
    for name in (
        *("input", "layer1", "layer1.0", "layer1.0.conv", "layer1.0.relu", "layer1.0.add"),
        *("layer1.0.relu_1", "layer1.0.mul", "layer1.1", "layer1.1.relu_1", "add", "add_1"),
    ):
        assert name in layers, name
    assert layers[0] == "input"
    assert "fc" not in layers  # holds no image
    assert {"fc", "mean", "flatten"} <= set(split(model).layers)
    assert len(set(layers)) == len(layers)
    assert layers.index("layer1.0.conv") < layers.index("layer1.0") < layers.index("layer1.1.conv")


def test_a_container_is_named_by_what_it_returns():
    model, x = Named().eval(), images()
    ours, target = split(model, x, theta=1.0), torch.tensor([0, 2])
    read = ours.read(x, target, ["layer1.0", "layer1"])
    first = model.layer1[0](x.clone())
    for layer, expected in (("layer1.0", first), ("layer1", model.layer1[1](first.clone()))):
        reading = read[layer]["g"]
        assert torch.allclose(reading.p - reading.n, expected, atol=1e-5)


def test_pieces_are_layers_of_one_tensor_each():
    def function(y):
        a, b, c, d = y.split(1, 1)
        e, f = torch.chunk(y, 2, dim=1)
        return head(b, d * 2, a, c, f, e)

    x = images()
    ours = split(Network(function).eval(), x)
    assert not any(node.target in ("split", torch.chunk) for node in ours.network.graph.nodes)
    assert torch.equal(ours(x), Network.forward(_with(ours), x))


def _with(ours):
    """Return the original's form around a split network's weights."""

    def function(y):
        a, b, c, d = y.split(1, 1)
        e, f = torch.chunk(y, 2, dim=1)
        return head(b, d * 2, a, c, f, e)

    model = Network(function).eval()
    model.load_state_dict(ours.network.state_dict())
    return model


@pytest.mark.parametrize(
    "form", [lambda m: trace(m).network, canonize], ids=["traced", "canonized"]
)
def test_tracing_again_keeps_the_names(form):
    x = images()
    once = form(Named().eval())
    first, second = trace(once), trace(deepcopy(once))
    assert list(first.layers) == list(second.layers)
    ours = split(once, x)
    assert {"input", "layer1", "layer1.0", "layer1.0.conv", "layer1.1"} <= set(ours.layers)
    assert split(ours.network, x).layers == ours.layers
    assert torch.equal(ours(x), once(x))


def test_a_graph_of_torch_fx_is_taken_too():
    x, model = images(), Named().eval()
    ours = split(fx.symbolic_trace(model), x)
    assert {"input", "layer1.0.conv", "layer1.0.relu_1", "again"} & set(ours.layers)


# -- the original --------------------------------------------------------------------------------


def test_the_original_is_left_as_it_was():
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = deepcopy(model.state_dict())
    x = images()
    ours = split(model, x)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model[2].inplace
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(ours(x), model.eval()(x))
    assert not any(module.training for module in ours.modules())
    model[0].weight.zero_()
    assert not torch.equal(ours(x), model(x))  # a copy


def test_one_module_by_two_names_stays_one():
    conv = nn.Conv2d(2, 2, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval()
    x = images()
    ours = split(model, x)
    assert torch.equal(ours(x), model(x))
    assert "0" in ours.layers
    assert sum(isinstance(module, nn.Conv2d) for module in ours.modules()) == 1


@pytest.mark.parametrize("kind", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("training", [False, True])
def test_parametrized_weights_are_taken_as_they_are(kind, training):
    model = nn.Sequential(kind(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model.train(training)
    x = images()
    ours = split(model, x)
    assert hasattr(model[0], "parametrizations")
    model.eval()
    assert torch.equal(ours(x), model(x))


# -- refusals ------------------------------------------------------------------------------------


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def two_inputs():
    class Both(nn.Module):
        def forward(self, x, y):
            return x + y

    return Both()


def no_logits():
    class Named(nn.Module):
        def forward(self, x):
            return {"scores": x}

    return Named()


def hooked(register):
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.ReLU()))
    getattr(model[1], register)(lambda *_: None)
    return model


def own_forward():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.ReLU()))
    model[1].forward = lambda x: x
    return model


def normed(norm):
    return nn.Sequential(nn.ReLU(), norm(nn.Conv2d(2, 2, 1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.ReLU(), Branching()), r"Sequential, at module '1'.*control flow"),
        (Branching, "at the model itself"),
        (two_inputs, "the forward of Both requires y besides the images"),
        # a tuple is no longer refused: its first element is taken for the logits
        (no_logits, "Named returns dict of keys scores"),
        (lambda: hooked("register_forward_hook"), "forward hooks .* on 1"),
        (lambda: hooked("register_forward_pre_hook"), "forward hooks .* on 1"),
        (own_forward, "a forward of the instance's own on 1"),
        (lambda: normed(spectral_norm), "hooks .* on 1"),
        (lambda: normed(weight_norm), "remove_weight_norm"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_what_no_graph_can_hold_is_refused(make, message):
    model = make()
    for transform in (split, canonize):
        with pytest.raises(UnsupportedError, match=f"(?s){message}"):
            transform(model)


def test_an_error_inside_a_module_names_it():
    class Faulty(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such thing")

    model = nn.Sequential(nn.Sequential(nn.ReLU(), Faulty()))
    with pytest.raises(UnsupportedError, match=r"module '0\.1': no such thing"):
        split(model)


BRANCHES = {  # on the type of what is traced, and whether the branch is taken
    "a tensor": (lambda x: isinstance(x, torch.Tensor), True),
    "torch.is_tensor": (torch.is_tensor, True),
    "one of several": (lambda x: isinstance(x, (list, torch.Tensor)), True),
    "a parameter": (lambda x: isinstance(x, nn.Parameter), False),
    "a list": (lambda x: isinstance(x, list | tuple), False),
    "a size": (lambda x: isinstance(x.shape[2], torch.Tensor), False),
    "a method's size": (lambda x: isinstance(x.size(0) * 2, torch.Tensor), False),
}


class Branch(nn.Module):
    def __init__(self, is_one):
        super().__init__()
        self.is_one, self.fc = is_one, nn.Linear(12, 3)

    def forward(self, x):
        x = torch.reshape(x, (x.shape[0], -1))
        return self.fc(3 * x if self.is_one(x.view(x.size(0), 1, -1)) else x)


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_on_a_type_is_traced_as_it_runs(name):
    is_one, taken = BRANCHES[name]
    model, x, plain = Branch(is_one).eval(), torch.randn(2, 3, 2, 2), isinstance
    assert is_one(x) is taken
    assert torch.equal(trace(model).network(x), model(x))
    assert isinstance is plain


def test_isinstance_is_put_back_after_an_error():
    model = Branch(lambda x: x[0] / bool(x.sum() > 0))
    plain = isinstance
    with pytest.raises(UnsupportedError, match="branch"):
        trace(model)
    assert isinstance is plain
