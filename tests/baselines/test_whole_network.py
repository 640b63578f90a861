"""Every map is that of the whole network, whatever a trace or a missing rule could lose, or none.

Each part below stands in random networks of its own, with a plain form of it: the same function in
torch's own modules. Gradients, a rescaled copy and the plain form say what the map must be.
"""

from copy import deepcopy

import effort
import pytest
import torch
import torch.nn.functional as F
from rival_networks import OPTIONS, POST_HOC, Guided
from small_pairs import randomise
from torch import Tensor, nn
from torchvision import transforms
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms import v2

from dmn.canonize import canonize, hookable
from dmn.errors import NotEqualError, UnsupportedError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP, find_method
from dmn.split import split

CHANNELS, SIZE, TARGET = 4, 12, torch.tensor([0, 2])
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RULES = ("LRPEpsilon", "LRPEpsilonPlus", "LRPGamma", "LRPEpsilonAlpha2Beta1", "ExcitationBackprop")
CHOSEN = OPTIONS | {name: {"layer": "body.0"} for name in ("GradCAM", "GradCAM++", "LayerCAM")}


class Call(nn.Module):
    """A function of the image, and of constants that are the module's own."""

    def __init__(self, function, **constants):
        super().__init__()
        self.function = function
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.function(self, x)


def constants(*values):
    return [torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in values]


def normalizing():
    """The plain form of Normalize: a norm whose statistics are its numbers."""
    norm = nn.BatchNorm2d(3, eps=0.0, affine=False)
    numbers = torch.tensor([MEAN, STD], dtype=torch.float64)
    norm.running_mean, norm.running_var = numbers[0], numbers[1] ** 2
    return norm


def norm():
    return randomise(nn.BatchNorm2d(CHANNELS, eps=0.03)).double()


def branch(is_one):
    m, s = constants(MEAN, STD)
    return Call(lambda own, x: (x - own.m) / own.s if is_one(x) else x, m=m, s=s)


def frozen(plain):
    result = FrozenBatchNorm2d(CHANNELS, eps=plain.eps)
    result.load_state_dict(plain.state_dict())
    return result


def synchronised(plain):
    result = nn.SyncBatchNorm(CHANNELS, eps=plain.eps)
    result.load_state_dict(plain.state_dict())
    return result


class NormWithActivation(nn.BatchNorm2d):
    """As in timm: a norm that calls a function on its statistics, and then an activation."""

    def forward(self, x):
        return F.batch_norm(
            x,
            *(self.running_mean, self.running_var, self.weight, self.bias),
            training=self.training,
            eps=self.eps,
        ).relu()


def with_activation(plain):
    result = NormWithActivation(CHANNELS, eps=plain.eps)
    result.load_state_dict(plain.state_dict())
    return result


def functional_norm(plain):
    names = ("running_mean", "running_var", "weight", "bias")
    return Call(
        lambda own, x: F.batch_norm(x, *(getattr(own, name) for name in names), eps=plain.eps),
        **{name: getattr(plain, name).detach() for name in names},
    )


def scaling(plain):
    """The plain norm as a product and a sum."""
    scale = (plain.weight / (plain.running_var + plain.eps).sqrt()).detach().view(1, -1, 1, 1)
    shift = plain.bias.detach().view(-1, 1, 1) - plain.running_mean.view(-1, 1, 1) * scale[0]
    return Call(lambda own, x: own.shift + torch.mul(x, own.scale), scale=scale, shift=shift)


# In front of the network: what may be lost, made anew, and its plain form.
FRONT = {
    "transforms.Normalize": (lambda: transforms.Normalize(MEAN, STD), normalizing),
    "v2.Normalize": (lambda: v2.Normalize(MEAN, STD), normalizing),
    "torch.is_tensor": (lambda: branch(torch.is_tensor), normalizing),
    "isinstance": (lambda: branch(lambda x: isinstance(x, Tensor)), normalizing),
    "isinstance of several": (
        lambda: branch(lambda x: not isinstance(x, (list, int)) and isinstance(x, Tensor)),
        normalizing,
    ),
    "isinstance of a union": (
        lambda: branch(lambda x: isinstance(x, Tensor | None)),
        normalizing,
    ),
}
# In the midst of it: what may be lost, made of the plain form, and that.
MIDST = {
    "F.batch_norm": (functional_norm, norm),
    "FrozenBatchNorm2d": (frozen, norm),
    "SyncBatchNorm": (synchronised, norm),
    "product and sum": (scaling, norm),
    "norm with activation": (
        lambda n: with_activation(n[0]),
        lambda: nn.Sequential(norm(), nn.ReLU()),
    ),
    "F.leaky_relu": (
        lambda _: Call(lambda own, x: F.leaky_relu(x, 0.3)),
        lambda: nn.LeakyReLU(0.3),
    ),
    "torch.tanh": (lambda _: Call(lambda own, x: torch.tanh(x)), nn.Tanh),
    "sigmoid": (lambda _: Call(lambda own, x: x.sigmoid()), nn.Sigmoid),
    "F.elu": (lambda _: Call(lambda own, x: F.elu(x, alpha=0.7)), lambda: nn.ELU(0.7)),
    "F.gelu": (lambda _: Call(lambda own, x: F.gelu(x)), nn.GELU),
    "F.max_pool2d": (
        lambda _: Call(lambda own, x: F.max_pool2d(x, 3, 2)),
        lambda: nn.MaxPool2d(3, 2),
    ),
    "F.avg_pool2d": (lambda _: Call(lambda own, x: F.avg_pool2d(x, 2)), lambda: nn.AvgPool2d(2)),
}
QUICK = {  # a way of losing an operation each; activations and pools are in rules/, too
    *("v2.Normalize", "isinstance of several", "F.batch_norm", "FrozenBatchNorm2d"),
    *("SyncBatchNorm", "product and sum", "norm with activation", "F.leaky_relu", "F.max_pool2d"),
}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return mixed.transpose(1, 2).view(x.shape)


# What no rule of relevance is for.
REFUSED = {
    "GroupNorm": lambda: nn.GroupNorm(2, CHANNELS),
    "InstanceNorm": lambda: nn.InstanceNorm2d(CHANNELS),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "torch.batch_norm": lambda: Call(
        lambda own, x: torch.batch_norm(x, None, None, own.m, own.v, False, 0.1, 1e-5, False),
        m=torch.zeros(CHANNELS),
        v=torch.ones(CHANNELS),
    ),
    "norm of the batch": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
    "F.batch_norm of the batch": lambda: Call(
        lambda own, x: F.batch_norm(x, None, None, training=True)
    ),
    "product": lambda: Call(lambda own, x: x * x),
    "gate": lambda: Call(lambda own, x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "matmul": lambda: Call(lambda own, x: x @ x),
    "softmax": lambda: nn.Softmax(1),
    "attention": Attention,
    "sine": lambda: Call(lambda own, x: torch.sin(x)),
}
# What a trace holds otherwise than it was meant, without an error.
LOST = {
    "a branch on the very type": lambda: Call(lambda own, x: x * 2 if type(x) is Tensor else x),
    "a random number": lambda: Call(lambda own, x: x + torch.rand(())),
    "an attribute": lambda: Call(lambda own, x: x if hasattr(x, "anything") else x * 2),
}


class Network(nn.Module):
    """Two convolutions, with a part in front, and one in the midst."""

    def __init__(self, front, midst, seed):
        super().__init__()
        torch.manual_seed(seed)
        first = nn.Conv2d(3, CHANNELS, 3, padding=seed % 2)
        nn.init.uniform_(first.bias, 0.2, 0.8)  # or none of so few units may be active
        self.front, self.midst = front, midst
        self.body = nn.Sequential(first, nn.ReLU() if seed % 4 > 1 else nn.Identity())
        second = nn.Conv2d(CHANNELS, 5, 3, padding=seed % 3 // 2)
        nn.init.uniform_(second.bias, 0.2, 0.8)
        self.rest = nn.Sequential(nn.ReLU(), second, nn.ReLU())
        self.fc = nn.Linear(5, 3)
        self.double().eval()

    def forward(self, x):
        x = self.rest(self.midst(self.body(self.front(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def networks(name, seed):
    """Return a network with a part that may be lost, and its plain form."""
    torch.manual_seed(seed + 100)
    if name in FRONT:
        part, plain = (make() for make in FRONT[name])
        return [Network(front, nn.Identity(), seed) for front in (part, plain)]
    make, plain = MIDST[name]
    plain = plain()
    return [Network(nn.Identity(), midst, seed) for midst in (make(plain), plain)]


def images(seed):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, SIZE, SIZE, generator=random, dtype=torch.float64)


def gradient(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, TARGET[:, None]).sum(), x)[0]


def guided(model):
    """Return a copy whose ReLU modules hand back what is positive only."""
    copy = deepcopy(model)
    for name, module in list(copy.named_modules()):
        if isinstance(module, nn.ReLU):
            copy.set_submodule(name, Call(lambda own, x: Guided.apply(x)))
    return copy


def assert_close(maps, expected, rtol=1e-4):
    scale = float(expected.abs().max())
    assert scale > 0
    assert torch.allclose(maps.double(), expected.double(), rtol=rtol, atol=rtol * scale / 10)


def makers(model, seed):
    """Return what makes each explainer, by name."""
    made = {
        name: lambda method=method, name=name: method(model, **CHOSEN.get(name, {}))
        for name, method in POST_HOC.items()
    }
    for name in RULES:
        made[f"{name} without canonization"] = lambda name=name: POST_HOC[name](
            model, canonize=False
        )
    for kind in (SplitCAM, SplitGrad, SplitLRP):
        for example in ((), (images(seed),)):
            made[f"{kind.__name__}, {len(example)} examples"] = lambda kind=kind, example=example: (
                kind(split(model, *example), stream="g", alpha=0.2 * (kind is not SplitLRP))
            )
    return made


@pytest.mark.parametrize("seed", effort.slow_except({1}, [1, 2]))
@pytest.mark.parametrize("name", effort.slow_except(QUICK, [*FRONT, *MIDST]))
def test_every_map_is_that_of_the_plain_form(name, seed):
    x = images(seed)
    model, plain = networks(name, seed)
    assert torch.allclose(model(x), plain(x), rtol=1e-12)
    others = makers(plain, seed)
    for method, make in makers(model, seed).items():
        if (name, method) == ("F.gelu", "DeepLift"):
            with pytest.raises(UnsupportedError, match="gelu"):
                make()
        elif "CAM" in method and "Split" not in method:
            # of negative gradients a class activation map is zero
            assert torch.allclose(make()(x, TARGET), others[method]()(x, TARGET), 1e-4, 1e-7)
        else:
            assert_close(make()(x, TARGET), others[method]()(x, TARGET))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", [*FRONT, *MIDST])
def test_maps_are_those_of_the_whole_network_by_gradients(name, seed):
    """By what the methods must be, without the plain form's own maps."""
    x = images(seed)
    model, plain = networks(name, seed)
    expected = gradient(model, x).mean(1, keepdim=True)
    assert_close(SplitGrad(split(model), part="p")(x, TARGET), expected)
    expected = gradient(guided(plain), x).sum(1, keepdim=True)
    assert_close(POST_HOC["GuidedBackprop"](model)(x, TARGET), expected)
    if name != "F.gelu":
        total = POST_HOC["DeepLift"](model)(x, TARGET).double().sum((1, 2, 3))
        rise = (model(x) - model(torch.zeros_like(x))).gather(1, TARGET[:, None])[:, 0]
        assert torch.allclose(total, rise, rtol=1e-4)
    smooth = ("gelu", "tanh", "sigmoid", "F.elu")
    if not name.endswith(smooth):
        product = (gradient(model, x) * x).sum(1, keepdim=True)
        assert_close(POST_HOC["LRPEpsilon"](model, 1e-12)(x, TARGET), product, 2e-3)


# Of these, coefficients are held at the image.
HELD = {"product", "matmul", "gate", "attention", "InstanceNorm", "GroupNorm"}


@pytest.mark.parametrize("seed", effort.slow_except({1}, [1, 2]))
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_all_that_need_one(name, seed):
    model, x = Network(nn.Identity(), REFUSED[name](), seed), images(seed)
    has_rule = {"Split": name in HELD, "AttnLRP": name in HELD | {"softmax"}}
    no_rule = (*RULES, "DeepLift", *(kind for kind, has in has_rule.items() if not has))
    for method, make in makers(model, seed).items():
        if method.startswith(no_rule):
            with pytest.raises(UnsupportedError, match="of its operations have no rule\n  midst"):
                make()(x, TARGET)
        elif method == "GuidedBackprop":
            expected = gradient(guided(model), x).sum(1, keepdim=True)
            assert_close(make()(x, TARGET), expected)
        else:
            assert make()(x, TARGET).isfinite().all()


@pytest.mark.parametrize("name", LOST)
def test_what_a_trace_loses_is_refused_at_the_first_images(name):
    model, x = Network(nn.Identity(), LOST[name](), 0), images(0)
    for method, make in makers(model, 0).items():
        if method.startswith((*RULES, "DeepLift", "GuidedBackprop")):
            with pytest.raises(NotEqualError, match="differs from it by"):
                make()(x, TARGET)
        elif method.endswith("1 examples"):
            with pytest.raises(NotEqualError, match="differs from it by"):
                make()
    for rewrite in (canonize, hookable, split):
        with pytest.raises(NotEqualError, match="the rewritten Network differs"):
            rewrite(model, x)


@pytest.mark.parametrize("end", [lambda x: x, lambda x: x.float()], ids=["half", "full"])
def test_an_autocast_inside_is_not_lost(end):
    """What it computes in half precision a trace computes in full."""

    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Network(nn.Identity(), nn.Identity(), 1).float()

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return end(self.net(x))

    model, x = Casting().eval(), images(0).float()
    for rewrite in (canonize, hookable):
        with pytest.raises(NotEqualError, match="the rewritten Casting"):
            rewrite(model, x)
    with pytest.raises((NotEqualError, UnsupportedError)):  # which has no rule for float()
        split(model, x)
    for method in ("LRPEpsilonPlus", "DeepLift", "GuidedBackprop"):
        with pytest.raises((NotEqualError, UnsupportedError)):
            POST_HOC[method](model)(x, TARGET)


def test_a_copy_that_fails_is_refused():
    """One channel becomes three by a mean of three, which no shape tells without images."""
    mean = torch.rand(3, 1, 1)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(
        Call(lambda own, x: x - own.mean, mean=mean), body, nn.Linear(4, 3)
    ).eval()
    x = torch.rand(2, 1, SIZE, SIZE)
    assert torch.allclose(canonize(model, x)(x), model(x), atol=1e-6)
    with pytest.raises(NotEqualError, match="fails"):
        POST_HOC["LRPEpsilon"](model)(x, 1)


class Resized(nn.Module):
    """It enlarges small images, and pools as often as large ones allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        if x.shape[-1] < 12:
            x = nn.functional.interpolate(x, scale_factor=2.0)
        x = self.norm(self.conv(x)).relu()
        for _ in range(x.shape[-1] // 8):
            x = nn.functional.max_pool2d(x, 2)
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("method", POST_HOC)
@pytest.mark.parametrize("size", [8, 16])
def test_branches_on_shapes_are_decided_by_the_first_images(method, size):
    """The maps are those of the same operations without a branch."""
    spec = find_method(method)
    torch.manual_seed(0)
    model = randomise(Resized()).eval()
    twice = (nn.MaxPool2d(2), nn.MaxPool2d(2))
    parts = (model.conv, model.norm, nn.ReLU(), *twice, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    grown = (nn.Upsample(scale_factor=2.0),) if size < 12 else ()
    straight = nn.Sequential(*grown, *parts, model.head).eval()
    x = torch.rand(2, 2, size, size)
    assert torch.allclose(model(x), straight(x))
    names = ("conv", str(len(grown))) if spec.needs_layer else (None, None)
    maps, expected = (
        spec.factory(net, **({"layer": name} if name else {}))(x, 1)
        for net, name in zip((model, straight), names, strict=True)
    )
    assert torch.allclose(maps, expected, rtol=1e-4, atol=1e-6)
