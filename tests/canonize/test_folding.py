"""Canonized networks are the same functions, without BatchNorm, in modules of their own."""

import pytest
import torch
import torch.nn.functional as F
from small_pairs import randomise
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torchvision import models

from dmn.canonize.folding import canonize, canonized, hookable
from dmn.errors import UnsupportedError
from dmn.graph.trace import trace
from dmn.nn import Add

NETWORKS = [
    *("vgg11_bn", "resnet18", "densenet121", "googlenet", "mobilenet_v2"),
    *("mnasnet0_5", "shufflenet_v2_x0_5", "inception_v3", "regnet_x_400mf"),
]
FAMILIES = ["vgg*_bn", "resnet*", "resnext*", "wide_resnet*", "densenet*", "mnasnet*", "regnet_x*"]
SLOW = sorted(set(models.list_models(models, include=FAMILIES)) - set(NETWORKS))
UNINITIALISED = ("vgg", "googlenet", "inception")


pytestmark = pytest.mark.usefixtures("_double")


def drawn(model):
    """Draw the statistics of every BatchNorm, and scales and shifts of those that have them."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and not layer.affine:
            layer.running_mean.normal_(0.0, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
        elif isinstance(layer, _BatchNorm):
            randomise(layer)
    return model.double().eval()


def network(name, size):
    """Make a network of torchvision's whose logits depend on the image, however deep it is."""
    options = {"init_weights": False} if name.startswith(UNINITIALISED) else {}
    model = randomise(models.get_model(name, num_classes=10, **options))
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train().momentum = 1.0
    model(torch.randn(4, 3, size, size))
    for norm in norms:  # away from what the batch was, but not so far that images look alike
        norm.running_mean += 0.3 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2.0)).add_(0.01)
    return model.eval()


def difference(model, other, x):
    """Return the largest difference of two functions, relative to the largest value."""
    expected = model(x)
    return float((other(x) - expected).abs().max() / expected.abs().max())


def called(model):
    """Return the kinds of module that a graph calls, in order."""
    nodes = [node for node in model.graph.nodes if node.op == "call_module"]
    return [type(model.get_submodule(node.target)).__name__ for node in nodes]


def assert_canonizes(name):
    size = 96 if name == "inception_v3" else 64
    model = network(name, size)
    x = torch.randn(2, 3, size, size)
    ours = canonize(model)
    logits = model(x)
    assert (logits[0] - logits[1]).abs().max() > 1e-4 * logits.abs().max()
    assert difference(model, ours, x) < 1e-10
    assert not any(isinstance(module, _BatchNorm) for module in ours.modules())
    assert not any(module.training for module in ours.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_torchvision(name):
    assert_canonizes(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_larger_networks_of_torchvision(name):
    assert_canonizes(name)


SHAPES = {1: (2, 4, 9), 2: (2, 4, 9, 8), 3: (2, 4, 6, 5, 7)}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_folds_into_the_operation_before(dims, groups, bias, affine):
    options = {"stride": 2, "padding": 1, "groups": groups, "bias": bias}
    convolutions = [
        CONVS[dims](4, 6, 3, dilation=2, padding_mode="zeros", **options),
        TRANSPOSED[dims](4, 6, 3, output_padding=1, **options),
    ]
    for conv in convolutions:
        model = drawn(nn.Sequential(conv, NORMS[dims](6, affine=affine, eps=1e-3)))
        ours = canonize(model)
        assert difference(model, ours, torch.randn(SHAPES[dims])) < 1e-13
        assert called(ours) == [type(conv).__name__]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("padding", "mode"), [(0, "zeros"), ("valid", "zeros"), (1, "replicate"), ("same", "circular")]
)
def test_folds_into_the_operation_after(dims, groups, bias, affine, padding, mode):
    options = {"groups": groups, "bias": bias, "padding": padding, "padding_mode": mode}
    conv = CONVS[dims](4, 6, 3, **options)
    model = drawn(nn.Sequential(nn.ReLU(), NORMS[dims](4, affine=affine), conv))
    ours = canonize(model)
    assert difference(model, ours, torch.randn(SHAPES[dims])) < 1e-13
    assert called(ours) == ["ReLU", type(conv).__name__]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_becomes_depthwise_where_nothing_else_is_exact(dims, affine):
    """Before padding by zeros, transposed convolution, and what is not linear."""
    name = CONVS[dims].__name__
    following = [
        CONVS[dims](4, 6, 3, padding=1),
        CONVS[dims](4, 6, 3, padding="same"),
        TRANSPOSED[dims](4, 6, 3),
        nn.ReLU(),
    ]
    x = torch.randn(SHAPES[dims])
    for module in following:
        model = drawn(nn.Sequential(nn.Tanh(), NORMS[dims](4, affine=affine), module))
        ours = canonize(model, x)
        assert difference(model, ours, x) < 1e-13
        assert called(ours) == ["Tanh", name, type(module).__name__]
        depthwise = ours.get_submodule("1")
        assert depthwise.groups == 4
        assert depthwise.kernel_size == (1,) * dims


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_beside_linear(bias, affine):
    norm = nn.BatchNorm1d(4, affine=affine)
    x = torch.randn(3, 4)
    for modules in ([nn.Linear(4, 4, bias), norm], [norm, nn.Linear(4, 5, bias)]):
        model = drawn(nn.Sequential(nn.Tanh(), *modules))
        for ours in (canonize(model), canonize(model, x)):
            assert difference(model, ours, x) < 1e-13
            assert called(ours) == ["Tanh", "Linear"]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((3, 4), "Linear"),
        ((3, 4, 5), "Conv1d"),
        ((3, 4, 5, 6), "Conv2d"),
        ((2, 4, 3, 5, 6), "Conv3d"),
    ],
)
def test_an_example_tells_what_a_batch_norm_sees(shape, kind):
    x, norms = torch.randn(shape), [nn.SyncBatchNorm(4), nn.BatchNorm1d(4)]
    for norm in norms[: 2 if len(shape) < 4 else 1]:
        model = drawn(nn.Sequential(nn.Tanh(), norm, nn.Tanh()))
        ours = canonize(model, x)
        assert difference(model, ours, x) < 1e-13
        assert called(ours) == ["Tanh", kind, "Tanh"]
        with pytest.raises(UnsupportedError, match=r"1 \(.*BatchNorm.*\).*pass `example`"):
            canonize(model)


def test_channels_of_a_sequence_are_not_the_features_of_linear():
    """Linear works on the last axis of (B, C, L), BatchNorm1d on the one before."""
    x = torch.randn(3, 4, 4)
    model = drawn(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-13
    assert called(ours) == ["Linear", "Conv1d", "Linear"]


def test_channels_of_one_sequence_are_not_the_features_of_a_batch():
    """Conv1d takes (C, L) as a sequence without batch, BatchNorm1d as a batch (B, C)."""
    x = torch.randn(4, 4)
    model = drawn(nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)))
    ours = canonize(model, x)
    assert difference(model, ours, x) < 1e-13
    assert called(ours) == ["Conv1d", "Linear"]


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)], ["Conv2d"]),
        ([nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)], ["Conv2d"]),
        ([nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU()], ["Conv2d", "ReLU"]),
        (
            [nn.Conv2d(4, 4, 3), nn.Dropout2d(), nn.BatchNorm2d(4), nn.ReLU(inplace=True)],
            ["Conv2d", "Dropout2d", "Conv2d", "ReLU"],
        ),
        (
            [nn.Conv2d(4, 4, 3), nn.SyncBatchNorm(4), nn.Identity(), nn.Dropout(0.9)],
            ["Conv2d", "Identity", "Dropout"],
        ),
        ([nn.Conv2d(4, 4, 3), nn.ReLU()], ["Conv2d", "ReLU"]),
    ],
)
def test_chains(modules, expected):
    model = drawn(nn.Sequential(*modules))
    model.train()
    ours = canonize(model)
    assert called(ours) == expected
    assert not any(module.training for module in ours.modules())
    assert difference(model.eval(), ours, torch.randn(SHAPES[2])) < 1e-13


def test_the_fold_by_its_definition():
    """A convolution as sums of products, its normalisation channel by channel."""
    conv, norm = nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4, eps=0.01)
    ours = canonize(drawn(nn.Sequential(conv, norm)))
    x = torch.randn(1, 3, 4, 4)
    expected = torch.empty(1, 4, 3, 3)
    for channel in range(4):
        for i in range(3):
            for j in range(3):
                z = (conv.weight[channel] * x[0, :, i : i + 2, j : j + 2]).sum()
                z = z + conv.bias[channel] - norm.running_mean[channel]
                z = z / (norm.running_var[channel] + 0.01).sqrt()
                expected[0, channel, i, j] = norm.weight[channel] * z + norm.bias[channel]
    assert torch.allclose(ours(x), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fold_is_that_of_torch_in_double(dtype):
    folds = [
        (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), fuse_conv_bn_eval),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), fuse_linear_bn_eval),
        (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), lambda *a: fuse_conv_bn_eval(*a, True)),
    ]
    for linear, norm, fuse in folds:
        model = drawn(nn.Sequential(linear, norm)).to(dtype)
        ours = canonize(model).get_submodule("0")
        expected = fuse(model.double()[0], model[1]).to(dtype)
        tolerance = {"rtol": 1e-14, "atol": 1e-15} if dtype is torch.float64 else {"rtol": 1e-7}
        for value, name in ((ours.weight, "weight"), (ours.bias, "bias")):
            assert value.dtype is dtype
            assert torch.allclose(value, getattr(expected, name), **tolerance)


def test_float32_stays_and_no_random_number_is_drawn():
    modules = [nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    model = drawn(nn.Sequential(*modules)).float()
    state = torch.get_rng_state()
    ours = canonize(model)
    assert torch.equal(state, torch.get_rng_state())
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}
    x = torch.randn(SHAPES[2], dtype=torch.float32)
    assert difference(model, ours, x) < 1e-6


class Shared(nn.Module):
    """One convolution and one ReLU for two normalisations, whose sum is classified."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.relu_1 = nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        one = self.relu(self.norm1(self.conv(x)))
        two = self.relu(self.norm2(self.conv(x)))
        return self.fc(self.relu_1(one - two).mean((2, 3)))


def test_what_is_called_twice_becomes_two():
    model, x = drawn(Shared()), torch.randn(SHAPES[2])
    ours = canonize(model)
    assert difference(model, ours, x) < 1e-13
    assert called(ours) == ["Conv2d", "ReLU", "Conv2d", "ReLU", "ReLU", "Linear"]
    assert {"conv", "conv_1", "relu", "relu_1"} < set(ours._modules)
    assert not torch.equal(ours.conv.weight, ours.conv_1.weight)
    nodes = [node.target for node in ours.graph.nodes if node.op == "call_module"]
    assert len(set(nodes)) == len(nodes)


class Read(nn.Module):
    """Convolutions whose normalisation cannot be folded into them."""

    def __init__(self):
        super().__init__()
        self.tied, self.skipped = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(4) for _ in range(3))
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = F.conv2d(self.norm1(self.tied(x)), self.tied.weight)
        skipped = self.skipped(x)
        three = self.norm3(self.norm2(skipped) * skipped)
        return self.last(three) * three


def test_what_others_use_is_not_folded_into():
    model, x = drawn(Read()), torch.randn(SHAPES[2])
    ours = canonize(model)
    assert difference(model, ours, x) < 1e-13
    assert torch.equal(ours.tied.weight, model.tied.weight)
    assert torch.equal(ours.last.weight, model.last.weight)
    assert [getattr(ours, name).groups for name in ("norm1", "norm2", "norm3")] == [4, 4, 4]


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.convs = nn.ModuleList([nn.Conv2d(4, 2, 3), nn.Conv2d(4, 2, 3, groups=2)])

    def forward(self, x):
        x = self.norm(x.sin())
        return self.convs[0](x) * self.convs[1](x)


def test_folds_into_all_that_follow():
    model, x = drawn(Several()), torch.randn(SHAPES[2])
    ours = canonize(model)
    assert difference(model, ours, x) < 1e-13
    assert called(ours) == ["Conv2d", "Conv2d"]


class Operations(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        one = (torch.add(x, x.sin()) + 1).add(F.relu(x, inplace=False))
        two = torch.add(torch.relu(one), one.relu(), alpha=2) + self.bias
        size = x.shape[2] + x.shape[3] + x.size(0)
        two += one
        return F.relu_(two + size + torch.zeros(2, 1, 1, 1))


def test_operations_become_modules_but_constants_stay():
    model, x = Operations(), torch.randn(SHAPES[2])
    expected = model(x.clone())
    ours = canonize(model)
    kept = x.clone()
    assert torch.equal(ours(x), expected)
    assert torch.equal(x, kept)
    assert sorted(called(ours)) == ["Add", "Add", "Add", "ReLU", "ReLU", "ReLU", "ReLU"]
    names = {name: type(module) for name, module in ours.named_children()}
    assert {name for name in names if names[name] is Add} == {"add", "add_2", "add_7"}
    assert names.keys() < trace(model).layers.keys()


def test_names_are_those_of_the_trace():
    model = models.resnet18(num_classes=3).eval()
    ours = canonize(model)
    paths = {name for name, _ in ours.named_modules()}
    assert {"layer1.0.relu", "layer1.0.relu_1", "layer1.0.add", "layer2.0.downsample.0"} < paths
    again = trace(ours).layers
    for name in ("conv1", "layer1.0.relu_1", "layer1.0.add", "layer2.0.downsample.0", "fc"):
        assert name in again
    leaves = {node.target for node in ours.graph.nodes if node.op == "call_module"}
    assert leaves < set(trace(model).layers) | {f"layer{i}.{j}.add" for i in range(5) for j in "01"}


class Nested(nn.Module):
    """A block whose addition is what it returns, called twice."""

    def __init__(self):
        super().__init__()
        self.block = models.mobilenetv2.InvertedResidual(4, 4, 1, 2)
        self.register_buffer("unused", torch.zeros(1))

    def forward(self, x):
        return self.block(self.block(x))


def test_canonizing_twice_is_canonizing_once():
    for model in (Nested(), Shared(), Several(), Operations()):
        drawn(model)
        x = torch.randn(SHAPES[2])
        once = canonize(model)
        twice = canonize(once)
        assert difference(model, once, x) < 1e-13
        assert torch.equal(once(x), twice(x))
        assert dict(once.named_modules()).keys() == dict(twice.named_modules()).keys()
    assert set(canonize(Nested()).block._modules) == {"conv", "add", "add_1"}


def test_hookable_is_canonized_but_for_the_folding():
    x = torch.randn(SHAPES[2])
    for model in (Nested(), Shared(), Several(), Operations()):
        drawn(model).train()
        ours, norms = hookable(model), [type(m) for m in model.modules() if "Norm" in str(type(m))]
        assert not any(module.training for module in ours.modules())
        assert not any(getattr(module, "inplace", False) for module in ours.modules())
        assert not any(parameter.requires_grad for parameter in ours.parameters())
        nodes = [node.target for node in ours.graph.nodes if node.op == "call_module"]
        assert len(set(nodes)) == len(nodes)
        assert torch.equal(ours(x), model.eval()(x.clone()))
        assert called(ours) == called(hookable(ours))
        assert torch.equal(hookable(ours)(x), ours(x))
        rest = [name for name in called(ours) if "Norm" not in name]
        canon = canonize(model)
        assert rest == called(canon)
        assert (len(rest) < len(called(ours))) == bool(norms)
        for again in (canonize(ours), hookable(canon)):
            assert torch.equal(again(x), canon(x))
            assert called(again) == called(canon)


def test_shapes_are_told_by_an_example():
    model, x = drawn(Shared()), torch.randn(SHAPES[2])
    (fc,) = (node for node in hookable(model, x).graph.nodes if node.target == "fc")
    assert fc.meta["tensor_meta"].shape == (2, 3)


class Refused(nn.Module):
    def __init__(self):
        super().__init__()
        self.untracked = nn.ModuleList(
            [nn.BatchNorm2d(4, track_running_stats=False), nn.SyncBatchNorm(4)]
        )
        self.untracked[1].running_mean = self.untracked[1].running_var = None
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.unknown = nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4))

    def forward(self, x):
        x = self.untracked[1](self.untracked[0](x)).sin()
        x = F.batch_norm(self.norm(self.conv(x)), self.mean, self.variance, training=True)
        view = x.flatten(2)
        x.relu_()
        return self.unknown(view.mean(2)) + x.mean((2, 3))


def test_all_that_cannot_be_folded_is_listed():
    model = Refused()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedError) as caught:
        canonize(model)
    paths = " ".join(node.path for node in caught.value.nodes)
    assert len(caught.value.nodes) == 5
    for name in ("untracked.0 ", "untracked.1 ", "batch_norm", "unknown ", "relu"):
        assert name in paths
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(UnsupportedError, match="cannot rewrite Refused: 1 of") as caught:
        hookable(model)
    assert "relu" in caught.value.nodes[0].path


def snapshot(model):
    return (
        {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()},
        {name: (id(module), module.training) for name, module in model.named_modules()},
        {name: value for name, value in model.__dict__.items() if name != "_modules"},
    )


def assert_same(before, after):
    assert before[0].keys() == after[0].keys()
    for name, (pointer, value) in before[0].items():
        assert after[0][name][0] == pointer
        assert torch.equal(after[0][name][1], value)
    assert list(before[1].items()) == list(after[1].items())
    assert before[2] == after[2]


def test_the_model_is_not_changed():
    model = drawn(Shared())
    model.norm2.train()
    model.conv.weight.requires_grad_(False)
    before, x = snapshot(model), torch.randn(SHAPES[2])
    ours = canonize(model, x)
    for parameter in ours.parameters():
        parameter.fill_(torch.nan)
    assert_same(before, snapshot(model))
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == [
        "conv.weight"
    ]


def test_within_the_block_the_model_is_canonized_and_afterwards_restored():
    model, x = drawn(Nested()).train(), torch.randn(SHAPES[2])
    model.block.conv[0].eval()
    before, ours = snapshot(model), canonize(model)
    seen = []
    with canonized(model) as inside:
        assert inside is model
        model.block.add_1.register_forward_hook(lambda *call: seen.append(call[2]))
        assert torch.equal(model(x), ours(x))
        assert torch.equal(seen[0], model(x))
        assert isinstance(model.block.add, Add)
        assert not model.training
        assert model.state_dict().keys() == ours.state_dict().keys()
    assert_same(before, snapshot(model))
    with pytest.raises(ZeroDivisionError), canonized(model):
        _ = 1 / 0
    assert_same(before, snapshot(model))
    with pytest.raises(RuntimeError), canonized(model):
        model(x[:, :2])
    assert_same(before, snapshot(model))


@torch.enable_grad()
def test_hooks_on_additions_fire_and_gradients_flow():
    model = drawn(Nested())
    ours, gradients = canonize(model), []
    x = torch.randn(SHAPES[2], requires_grad=True)
    ours.block.add.register_full_backward_hook(lambda module, into, out: gradients.append(into))
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x)
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-12)
    ((left, right),) = gradients
    assert torch.equal(left, right)
