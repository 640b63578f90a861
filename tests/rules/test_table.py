"""Every operation that has a rule, in all its spellings, against facts that know of no rule.

What is compared with: the operation itself, autograd, and finite differences of g and h.
"""

import operator
import re

import effort
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.shufflenetv2 import channel_shuffle
from torchvision.ops import stochastic_depth

from dmn.errors import OptionError, UnsupportedError
from dmn.nn import GRADIENT, BackwardConfig
from dmn.rules import Activation, Linear, Rule, add_rule
from dmn.rules.table import RULES
from dmn.split import split

TARGET = torch.tensor([2, 0])
SHAPES = {  # of what an operation sees of images of (2, 4, 6, 8)
    0: lambda x: x.flatten(1),
    1: lambda x: x.flatten(2),
    2: lambda x: x,
    3: lambda x: x.reshape(2, 4, 4, 3, 4),
}


def images():
    return torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1)).double()


class ProbeImages(nn.Module):
    """An operation, and a linear layer that reads everything it returns."""

    def __init__(self, operation, dimensions):
        super().__init__()
        self.operation, self.dimensions = operation, dimensions
        self.double().eval()
        size = operation(SHAPES[dimensions](images())).flatten(1).shape[1]
        self.fc = nn.Linear(size, 3).double()

    def forward(self, x):
        return self.fc(torch.flatten(self.operation(SHAPES[self.dimensions](x)), 1))


class Function(nn.Module):
    """A function of one tensor and of parameters of either sign, named w, b, m, v and c."""

    def __init__(self, function, **shapes):
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            value = torch.randn(shape, generator=torch.Generator().manual_seed(len(name) + 7))
            if name in "mv":  # a mean and a variance are buffers
                self.register_buffer(name, value.abs() + 0.5 if name == "v" else value)
            else:
                self.register_parameter(name, nn.Parameter(value))

    def forward(self, x):
        names = [*self._parameters, *self._buffers]
        return self.function(x, *(getattr(self, name) for name in names))


class Two(nn.Module):
    """A function of two tensors."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.function(self.one(x), self.two(x))


def norm(kind, channels=4, **options):
    layer = kind(channels, **options)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer


def of(function, **shapes):
    return lambda: Function(function, **shapes)


def of_module(kind, *args):
    return lambda: getattr(nn, kind)(*args)


def two(function):
    return lambda: Two(function)


CASES = {}


def cases(dimensions, **makers):
    CASES.update({f"{name}, {dimensions}d": (make, dimensions) for name, make in makers.items()})


for _n in (1, 2, 3):
    _conv, _up = getattr(nn, f"Conv{_n}d"), getattr(nn, f"ConvTranspose{_n}d")
    _most, _mean = getattr(nn, f"MaxPool{_n}d"), getattr(nn, f"AvgPool{_n}d")
    _amost, _amean = getattr(nn, f"AdaptiveMaxPool{_n}d"), getattr(nn, f"AdaptiveAvgPool{_n}d")
    _fconv, _fup = getattr(F, f"conv{_n}d"), getattr(F, f"conv_transpose{_n}d")
    _tconv = getattr(torch, f"conv{_n}d")
    _fmost, _fmean = getattr(F, f"max_pool{_n}d"), getattr(F, f"avg_pool{_n}d")
    _tmost = getattr(torch, f"max_pool{_n}d")
    _famost = getattr(F, f"adaptive_max_pool{_n}d")
    _famean = getattr(F, f"adaptive_avg_pool{_n}d")
    _fdropout = getattr(F, f"dropout{_n}d")
    _norm = getattr(nn, f"BatchNorm{_n}d")
    _taps = (3,) * _n
    _odd = (2, 3, 2)[:_n]
    cases(
        _n,
        conv=lambda c=_conv: c(4, 6, 3, padding=1),
        conv_strided=lambda c=_conv: c(4, 6, 2, stride=2, bias=False),
        conv_grouped=lambda c=_conv: c(4, 4, 2, groups=2, dilation=2, padding=2),
        conv_same=lambda c=_conv: c(4, 3, 3, padding="same", dilation=2),
        conv_same_even=lambda c=_conv: c(4, 3, 2, padding="same"),
        conv_valid=lambda c=_conv: c(4, 3, 2, padding="valid"),
        conv_reflect=lambda c=_conv: c(4, 3, 3, padding=1, padding_mode="reflect"),
        conv_replicate=lambda c=_conv: c(4, 3, 3, padding=1, padding_mode="replicate"),
        conv_circular=lambda c=_conv: c(4, 3, 3, padding=1, padding_mode="circular"),
        conv_reflect_same=lambda c=_conv: c(4, 3, 2, padding="same", padding_mode="reflect"),
        fconv=of(lambda x, w, b, f=_fconv: f(x, w, b, 2, 1), w=(3, 4, *_taps), b=(3,)),
        fconv_named=of(
            lambda x, w, b, f=_fconv: f(input=x, weight=w, bias=b, padding=1), w=(3, 4, *_taps), b=3
        ),
        fconv_weight=of(lambda x, w, f=_fconv: f(x, weight=w, padding="same"), w=(3, 4, *_taps)),
        tconv=of(lambda x, w, f=_tconv: f(x, w, groups=2), w=(4, 2, *_taps)),
        up=lambda c=_up: c(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        up_plain=lambda c=_up: c(4, 2, 2, bias=False, dilation=2),
        fup=of(lambda x, w, b, f=_fup: f(x, w, b, 2, 1, 1), w=(4, 2, *_taps), b=(2,)),
        norm=lambda c=_norm: norm(c),
        norm_bare=lambda c=_norm: norm(c, affine=False, eps=0.1),
        fnorm=of(lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=0.2), w=4, b=4, m=4, v=4),
        fnorm_bare=of(lambda x, m, v: F.batch_norm(x, m, v), m=4, v=4),
        most=lambda c=_most: c(2),
        most_padded=lambda c=_most: c(3, 2, padding=1, ceil_mode=True),
        most_dilated=lambda c=_most, k=_odd: c(k if len(k) > 1 else 2, 1, dilation=1),
        most_ceiling=lambda c=_most: c(2, 3, ceil_mode=True),
        fmost=of(lambda x, f=_fmost: f(x, 3, 2, 1, ceil_mode=True)),
        fmost_named=of(lambda x, f=_fmost: f(x, kernel_size=2)),
        tmost=of(lambda x, f=_tmost: f(x, 2, 1)),
        mean=lambda c=_mean: c(2),
        mean_padded=lambda c=_mean: c(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        fmean=of(lambda x, f=_fmean: f(x, 2, 1)),
        amost=lambda c=_amost: c(1),
        amost_uneven=lambda c=_amost, k=_odd: c(k if len(k) > 1 else 5),
        famost=of(lambda x, f=_famost: f(x, 2)),
        amean=lambda c=_amean: c(1),
        famean=of(lambda x, f=_famean: f(x, 2)),
        zero_pad=of_module(f"ZeroPad{_n}d", 1),
        constant_pad=of_module(f"ConstantPad{_n}d", 1, -0.7),
        reflect_pad=of_module(f"ReflectionPad{_n}d", 1),
        replicate_pad=of_module(f"ReplicationPad{_n}d", 1),
        circular_pad=of_module(f"CircularPad{_n}d", 1),
        fpad=of(lambda x, k=[1, 0] * _n: F.pad(x, k)),
        fpad_crop=of(lambda x, k=[-1, 2] * _n: F.pad(x, k, "constant", 0.4)),
        fpad_value=of(lambda x, k=[1, 2] * _n: F.pad(x, pad=k, value=-0.3)),
        fpad_reflect=of(lambda x, k=[1, 1] * _n: F.pad(x, k, mode="reflect")),
        fpad_replicate=of(lambda x, k=[1, 1] * _n: F.pad(x, k, mode="replicate")),
        fpad_circular=of(lambda x, k=[1, 1] * _n: F.pad(x, k, "circular")),
        nearest=of(lambda x: F.interpolate(x, scale_factor=2)),
        nearest_exact=of(lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact")),
        smooth=of(
            lambda x, m=("linear", "bilinear", "trilinear")[_n - 1]: F.interpolate(
                x, scale_factor=1.5, mode=m
            )
        ),
        area=of(lambda x: F.interpolate(x, scale_factor=0.5, mode="area")),
        dropout=of_module(f"Dropout{_n}d"),
        fdropout=of(lambda x, f=_fdropout: f(x, training=False)),
    )

MODULES = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "leaky_steep": lambda: nn.LeakyReLU(1.5),
    "leaky_turned": lambda: nn.LeakyReLU(-0.3),
    "prelu": nn.PReLU,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.8),
    "hardtanh_lifted": lambda: nn.Hardtanh(-2.0, -0.5),
    "elu": lambda: nn.ELU(0.5),
    "elu_steep": lambda: nn.ELU(1.3),
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.7),
    "softplus": lambda: nn.Softplus(2.0),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "logsigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign,
}
FUNCTIONS = {
    "prelu_each": lambda: nn.PReLU(4, -0.4),
    "frelu": of(F.relu),
    "trelu": of(torch.relu),
    "relu_in_place": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)),
    "mrelu": of(lambda x: (x * 1).relu_()),
    "frelu6": of(F.relu6),
    "fleaky": of(lambda x: F.leaky_relu(x, 0.3)),
    "fleaky_named": of(lambda x: F.leaky_relu(x, negative_slope=-1.5)),
    "fprelu": of(F.prelu, w=4),
    "fprelu_named": of(lambda x, w: F.prelu(x, weight=w), w=1),
    "tprelu": of(torch.prelu, w=4),
    "fhardtanh": of(lambda x: F.hardtanh(x, 0.2, 0.9)),
    "clamp": of(lambda x: torch.clamp(x, -0.3, 0.6)),
    "clamp_low": of(lambda x: x.clamp(min=0.4)),
    "clamp_tensor": of(lambda x, w: x.clamp(max=w), w=(4, 1, 1)),
    "clip": of(lambda x: torch.clip(x, max=-0.4)),
    "felu": of(lambda x: F.elu(x, alpha=1.7)),
    "felu_turned": of(lambda x: F.elu(x, -0.6)),
    "fselu": of(F.selu),
    "tselu": of(torch.selu),
    "fcelu": of(lambda x: F.celu(x, 2.0)),
    "fsoftplus": of(F.softplus),
    "tsigmoid": of(torch.sigmoid),
    "fsigmoid": of(F.sigmoid),
    "msigmoid": of(lambda x: x.sigmoid()),
    "ttanh": of(torch.tanh),
    "mtanh": of(lambda x: x.tanh()),
    "fgelu": of(F.gelu),
    "fgelu_tanh": of(lambda x: F.gelu(x, approximate="tanh")),
    "fsilu": of(F.silu),
    "fmish": of(F.mish),
    "fhardswish": of(F.hardswish),
    "fhardsigmoid": of(F.hardsigmoid),
    "flogsigmoid": of(F.logsigmoid),
    "fsoftsign": of(F.softsign),
}
cases(2, **MODULES, **FUNCTIONS)
cases(
    0,
    linear=lambda: nn.Linear(192, 5),
    linear_bare=lambda: nn.Linear(192, 5, bias=False),
    flinear=of(F.linear, w=(5, 192), b=5),
    flinear_named=of(lambda x, w: F.linear(input=x, weight=w), w=(5, 192)),
    norm=lambda: norm(nn.BatchNorm1d, 192),
    prelu=lambda: nn.PReLU(192, 0.1),
)
cases(1, linear=lambda: nn.Linear(48, 5))
cases(
    2,
    add=two(operator.add),
    tadd=two(torch.add),
    madd=two(lambda a, b: a.add(b)),
    madd_named=two(lambda a, b: torch.add(a, other=b)),
    add_in_place=two(lambda a, b: a.add_(b)),
    add_itself=of(lambda x: x + x),
    add_broadcast=two(lambda a, b: a + b.mean((2, 3), keepdim=True)),
    many=two(lambda a, b: sum([a, b, a])),
    sub=two(operator.sub),
    tsub=two(torch.sub),
    tsubtract=two(torch.subtract),
    rsub=two(torch.rsub),
    neg=of(operator.neg),
    tneg=of(torch.neg),
    mneg=of(lambda x: x.negative()),
    from_constant=of(lambda x: 0.7 - x),
    rsub_constant=of(lambda x: torch.rsub(x, -0.7)),
    shift=of(lambda x: x + 0.3 - 1.2),
    shift_parameter=of(lambda x, w: x + w, w=(4, 1, 1)),
    shift_grow=of(lambda x, w: x[:, :1] - w, w=(5, 1, 1)),
    shift_buffer=of(lambda x, m: m - x, m=(8,)),
    scale=of(lambda x: -2.5 * x),
    scale_parameter=of(lambda x, w: x * w, w=(4, 1, 1)),
    scale_grow=of(lambda x, w: w * x[:, :1], w=(5, 1, 1)),
    scale_buffer=of(lambda x, m: torch.mul(x, m), m=(6, 1)),
    scale_named=of(lambda x, m: x.mul(other=m), m=(6, 1)),
    scale_size=of(lambda x: x * x.size(1) / x.shape[2]),
    divide=of(lambda x: x / -1.5),
    divide_named=of(lambda x: torch.div(x, other=-0.5)),
    divide_parameter=of(lambda x, w: x.div(w), w=(4, 1, 1)),
    in_place=of(lambda x: ((x * 1).mul_(-2).sub_(0.1)).div_(3)),
    cat=two(lambda a, b: torch.cat([a, b, a], 1)),
    cat_named=two(lambda a, b: torch.cat(tensors=(b, a), dim=2)),
    cat_constant=of(lambda x, w: torch.cat([x, w.expand(x.size(0), 2, 6, 8)], 1), w=(1, 2, 6, 8)),
    concat=two(lambda a, b: torch.concat([a, b], -1)),
    stack=two(lambda a, b: torch.stack([a, b], 1)),
    chunk=of(lambda x: torch.cat(_swapped(x.chunk(2, dim=1)), 2)),
    tchunk=of(lambda x: torch.cat(_swapped(torch.chunk(x, 2, 1)), 2)),
    chunk_named=of(lambda x: torch.cat(_swapped(torch.chunk(input=x, chunks=2, dim=1)), 2)),
    split=of(lambda x: torch.cat(_swapped(x.split([3, 1], 1)), 1)),
    tsplit=of(lambda x: torch.cat(_swapped(torch.split(x, 2, dim=1)), 1)),
    split_named=of(
        lambda x: torch.cat(_swapped(torch.split(x, split_size_or_sections=2, dim=1)), 1)
    ),
    msplit_named=of(lambda x: torch.cat(_swapped(x.split(split_size=2, dim=1)), 1)),
    unbind=of(lambda x: x.unbind(1)[2] - torch.unbind(x, 1)[-1]),
    flatten=of(lambda x: x.flatten(1, 2)),
    tflatten=lambda: nn.Flatten(2),
    unflatten=lambda: nn.Unflatten(1, (2, 2)),
    view=of(lambda x: x.view(x.size(0), -1, 2)),
    view_as=two(lambda a, b: a.view_as(b)),
    reshape=of(lambda x: torch.reshape(x, (x.shape[0], -1))),
    permute=of(lambda x: x.permute(0, 2, 3, 1)),
    tpermute=of(lambda x: torch.permute(x, (0, 3, 1, 2))),
    transpose=of(lambda x: x.transpose(1, 2).contiguous()),
    last=of(lambda x: x.contiguous(memory_format=torch.channels_last)),
    to_type=of(lambda x: x.to(torch.float64)),
    to_type_named=of(lambda x, w: x.to(dtype=w.dtype, non_blocking=True), w=3),
    to_device=of(lambda x, w: x.to(w.device), w=3),
    to_both=of(lambda x, w: x.to(w.device, w.dtype, copy=True), w=3),
    to_other=of(lambda x, w: x.to(w), w=3),
    to_last=of(lambda x: x.to(memory_format=torch.channels_last)),
    scale_expanded=of(lambda x, c: x * c.expand_as(x), c=(4, 1, 1)),
    shift_cast=of(lambda x, c: x + c.type_as(x).to(x), c=(4, 1, 1)),
    join_zeros=of(lambda x: torch.cat([x, torch.zeros_like(x), x.new_ones(2, 1, 6, 8)], 1)),
    shift_full=of(lambda x: x - torch.full_like(x, 0.3)),
    to_stream=of(lambda x: (x * 2).to(x)),
    double=of(lambda x: x.double()),
    type=of(lambda x: x.type(torch.float64)),
    type_as=of(lambda x: (2 * x).type_as(x)),
    cpu=of(lambda x: x.cpu()),
    ttranspose=of(lambda x: torch.transpose(x, 1, 3)),
    expand=of(lambda x: x[:, :1].expand(-1, 3, -1, -1)),
    expand_as=two(lambda a, b: a[:, :1].expand_as(b)),
    average=of(lambda x: x.mean((2, 3))),
    average_kept=of(lambda x: torch.mean(x, [2, 3], keepdim=True)),
    total=of(lambda x: x.sum(1)),
    total_kept=of(lambda x: torch.sum(x, dim=(1, 2), keepdim=True)),
    index=of(lambda x: x[:, 1]),
    slice=of(lambda x: x[:, 1:, ::2, -3:]),
    list_index=of(lambda x: x[:, [2, 0, 2]]),
    new_axis=of(lambda x: x[:, None, ..., 0]),
    unsqueeze=of(lambda x: x.unsqueeze(1)),
    squeeze=of(lambda x: x[:, :1].squeeze(1)),
    tsqueeze=of(lambda x: torch.squeeze(torch.unsqueeze(x, 2), 2)),
    upsample=lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    upsample_size=lambda: nn.Upsample((9, 5)),
    upsample_nearest=lambda: nn.UpsamplingNearest2d(scale_factor=2),
    upsample_smooth=lambda: nn.UpsamplingBilinear2d(scale_factor=2),
    bicubic=of(lambda x: F.interpolate(x, (9, 5), mode="bicubic")),
    bicubic_module=lambda: nn.Upsample(scale_factor=1.4, mode="bicubic", align_corners=True),
    bicubic_antialiased=of(lambda x: F.interpolate(x, (3, 5), mode="bicubic", antialias=True)),
    antialiased=of(lambda x: F.interpolate(x, (3, 5), mode="bilinear", antialias=True)),
    shuffle=lambda: nn.ChannelShuffle(2),
    torchvision_shuffle=of(lambda x: channel_shuffle(x, 2)),
    pixel_shuffle=lambda: nn.PixelShuffle(2),
    fpixel_shuffle=of(lambda x: F.pixel_shuffle(x, 2)),
    pixel_unshuffle=lambda: nn.PixelUnshuffle(2),
    plain_dropout=nn.Dropout,
    alpha_dropout=nn.AlphaDropout,
    plain_fdropout=of(lambda x: F.dropout(x, 0.3, False)),
    depth=of(lambda x: stochastic_depth(x, 0.5, "row", training=False)),
    identity=nn.Identity,
    clone=of(lambda x: x.clone()),
    most_named=lambda: nn.MaxPool2d((2, 3), (1, 2), (1, 0), dilation=(2, 1)),
    amost_none=lambda: nn.AdaptiveMaxPool2d((None, 3)),
    average_divided=lambda: nn.AvgPool2d((2, 1), divisor_override=3),
)


def _swapped(pieces):
    one, two = pieces
    return [two, one]


def probe(name):
    make, dimensions = CASES[name]
    torch.manual_seed(0)
    return ProbeImages(make(), dimensions)


def streams(like, random):
    """Return nonnegative p and n, everywhere away from zero, with p - n the image."""
    common = torch.rand(like.shape, generator=random).double() + 0.1
    return like.clamp(min=0) + common, (-like).clamp(min=0) + common


def whole(ends):
    return [end.to(0).tensor for end in ends]


def autograd(model, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).gather(1, TARGET[:, None]).sum(), x)
    return gradient


EVEN = "ignore:Using padding='same' with even kernel lengths"


@pytest.mark.filterwarnings(EVEN)
@pytest.mark.parametrize("name", CASES)
def test_an_operation_splits_exactly(name):
    model, x = probe(name), images()
    random = torch.Generator().manual_seed(2)
    ours = split(model, x, pool="convex", theta=1.0)
    logits = model(x).detach()
    assert torch.equal(ours(x), logits)

    read = ours.read(x, TARGET, ["input"], GRADIENT, ("g", "h", "g-h"))["input"]
    truth = autograd(model, x)
    for alpha in (0.0, 0.3):
        alone = ours.read(x, TARGET, ["input"], BackwardConfig(alpha=alpha), ("g-h",))["input"][
            "g-h"
        ]
        assert torch.equal(alone.delta_p, truth)
    assert torch.equal(read["g-h"].delta_p, truth)

    p, n = streams(x, random)
    ends = whole(ours.ends(p, n))
    size = float(ends[0].abs().max())
    assert float((ends[0] - ends[1] - logits).abs().max()) <= 1e-9 * size
    values = ours._forward(ours._plan(GRADIENT, (), sums=ours._nodes), p - n, p + n)
    for node, s in values.s.items():
        u, s = values.u[node], s.to(0).tensor
        assert float((s - u.abs()).min()) >= -1e-12 * float(s.max()), f"p or n < 0 at {node}"

    for _ in range(effort.examples(1, 3)):
        more = [torch.randn(x.shape, generator=random).double().clamp(min=0) for _ in "pn"]
        raised = whole(ours.ends(p + more[0], n + more[1]))
        assert all(float((r - e).min()) >= -1e-12 * size for r, e in zip(raised, ends, strict=True))

    step = 1e-6
    for _ in range(effort.examples(1, 3)):
        dp, dn = (torch.randn(x.shape, generator=random).double() for _ in "pn")
        high = whole(ours.ends(p + step * dp, n + step * dn))
        low = whole(ours.ends(p - step * dp, n - step * dn))
        for side, after, before in zip("gh", high, low, strict=True):
            slope = (after - before).gather(1, TARGET[:, None])[:, 0] / (2 * step)
            mine = (read[side].delta_p * dp + read[side].delta_n * dn).flatten(1).sum(1)
            scale = float((read[side].delta_p.abs() + read[side].delta_n.abs()).sum())
            assert float((slope - mine).abs().max()) <= 1e-7 * scale, f"{side} of {name}"


@pytest.mark.filterwarnings(EVEN)
@pytest.mark.parametrize("name", CASES)
def test_relevance_comes_back_through_it(name):
    """Conserved but for what constants and epsilon absorb: never more than there was."""
    model, x = probe(name), images()
    for pool, theta in (("convex", 1.0), ("winner", 0.0)):
        ours = split(model, pool=pool, theta=theta)
        unshifted = BackwardConfig("relevance", alpha=0.0, head_alpha=0.0)
        read = ours.read(x, TARGET, ["input"], unshifted, ("g", "h"))["input"]
        for side, start in (("g", ours.g(x)), ("h", ours.h(x))):
            p, n, delta_p, delta_n = read[side]
            total = (p * delta_p + n * delta_n).flatten(1).sum(1)
            start = start.gather(1, TARGET[:, None])[:, 0]
            assert (total >= -1e-9 * start).all()
            assert (total <= start * (1 + 1e-9)).all()


def bounds(module, x):
    ours = split(ProbeImages(module, 2))
    plan = ours._plan(GRADIENT, ["input"])
    values = ours._forward(plan, x)
    found = [
        rule.bounds(values.calls[node])
        for node, rule in plan.rules.items()
        if isinstance(rule, Activation)
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", [*MODULES, *(name for name in FUNCTIONS if name[0] == "f")])
def test_slopes_are_within_their_bounds_and_reach_them(name):
    make = {**MODULES, **FUNCTIONS}[name]
    low, high = (float(torch.as_tensor(bound).max()) for bound in bounds(make(), images()))
    assert low >= 0
    assert high >= 0
    grid = torch.linspace(-30, 30, 4 * 6 * 8 * 2000, dtype=torch.float64)
    x = grid.view(-1, 4, 6, 8).requires_grad_()
    (slopes,) = torch.autograd.grad(make().double()(x).sum(), x)
    assert -low <= float(slopes.min()), "slope below -c"
    assert float(slopes.max()) <= high, "slope above C"
    if name not in ("leaky_turned", "fleaky_named", "felu_turned", "prelu_each", "fprelu"):
        assert float(slopes.max()) >= high - 1e-3
    if low:
        assert float(slopes.min()) <= -low + 1e-3


def test_relevance_of_large_images_meets_bounds_by_channel():
    model = nn.Sequential(
        Function(lambda x, w: x.clamp(min=w), w=(3, 1, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    x = torch.randn(2, 3, 160, 160)
    read = split(model, x).read(x, TARGET, ["input"], BackwardConfig("relevance"))["input"]
    assert all(torch.isfinite(value).all() for reading in read.values() for value in reading)


# -- rules of one's own --------------------------------------------------------------------------


@pytest.fixture
def _rules():
    kept = dict(RULES)
    yield
    RULES.clear()
    RULES.update(kept)


class Snake(nn.Module):
    """x + sin(x)^2, with slopes in [0, 2]; written with control flow that no graph could hold."""

    def forward(self, x):
        return x + torch.sin(x) ** 2 if float(x.detach().sum()) else x


class Mixing(nn.Module):
    """Linear in its input, and in a weight of its own."""

    def __init__(self):
        super().__init__()
        self.mix, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        turned = torch.tensordot(x, self.mix, dims=([1], [0]))  # has no rule
        return turned.permute(0, 3, 1, 2) + self.bias


class Mirror(nn.Module):
    def forward(self, x):
        return torch.rot90(x, 2, (2, 3))


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(Snake, Activation((0.0, 2.0))), (Mixing, Linear()), (Mirror, Rule())],
)
@pytest.mark.usefixtures("_rules")
def test_a_rule_of_ones_own_takes_one_call(kind, rule):
    CASES["own"] = kind, 2
    try:
        with pytest.raises(Exception, match=r"cannot (trace|split)"):
            split(probe("own"))
        add_rule(kind, rule)
        test_an_operation_splits_exactly("own")
        test_relevance_comes_back_through_it("own")
    finally:
        del CASES["own"]


# -- refusals ------------------------------------------------------------------------------------


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.conv(x))


class Kernel(nn.Module):
    """A convolution whose weights are activations."""

    def forward(self, x):
        return F.conv2d(x, x.mean((0, 2, 3)).view(1, 4, 1, 1))


REFUSED = {
    "softmax": (of(lambda x: F.softmax(x, 1)), r"operation\.softmax \(softmax\)", "softmax"),
    "msoftmax": (of(lambda x: x.softmax(1)), r"operation\.softmax", "softmax"),
    "softmax_module": (lambda: nn.Softmax(1), r"operation \(Softmax\)", "explain the logits"),
    "gate": (Gate, r"operation\.mul \(mul\)", "product of two activations"),
    "square": (of(lambda x: x * x), r"operation\.mul", "product of two activations"),
    "power": (of(lambda x: x**2), r"operation\.pow", "product of two activations"),
    "root": (of(lambda x: x.abs() ** 0.5), r"operation\.(abs|pow)", "exponent 0.5|no rule"),
    "square_root": (of(lambda x: torch.relu(x) ** 0.5), r"operation\.pow", "exponent 0.5"),
    "quotient": (of(lambda x: x / x.mean()), "truediv", "not monotone"),
    "inverse": (of(lambda x: 1 / x), "truediv", "not monotone"),
    "rounded": (of(lambda x: torch.div(x, 2, rounding_mode="floor")), "div", "rounded"),
    "integers": (of(lambda x: x.to(torch.int64)), r"operation\.to", "to integers has no slopes"),
    "named": (of(lambda x: x.to(dtype=torch.uint8)), r"operation\.to", "to integers has no slopes"),
    "long": (of(lambda x: x.long().double()), r"operation\.long", "keep .* a float type"),
    "matmul": (of(lambda x: x @ x.transpose(2, 3)), "matmul", "attention"),
    "attention": (of(lambda x: F.scaled_dot_product_attention(x, x, x)), "attention", "attention"),
    "kernel": (Kernel, r"operation\.conv2d", "weights"),
    "bound": (of(lambda x: x.clamp(max=x.mean())), r"operation\.clamp", "bounds are activations"),
    "layer_norm": (lambda: nn.LayerNorm(8), r"operation \(LayerNorm\)", "statistics"),
    "flayer_norm": (of(lambda x: F.layer_norm(x, (8,))), "layer_norm", "statistics"),
    "group_norm": (lambda: nn.GroupNorm(2, 4), "GroupNorm", "statistics"),
    "instance_norm": (lambda: nn.InstanceNorm2d(4), "InstanceNorm2d", "statistics"),
    "bare_norm": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        r"operation \(BatchNorm2d\)",
        "without running statistics",
    ),
    "fbatch_norm": (
        of(lambda x, m, v: F.batch_norm(x, m, v, training=True), m=4, v=4),
        "batch_norm",
        "training mode",
    ),
    "tbatch_norm": (
        of(lambda x, m, v: torch.batch_norm(x, v, m, m, v, False, 0.1, 1e-5, False), m=4, v=4),
        "batch_norm",
        r"functional\.batch_norm",
    ),
    "dropout": (of(F.dropout), r"operation\.dropout", r"training=self\.training"),
    "dropout2d": (of(lambda x: F.dropout2d(x, 0.2, True)), "dropout2d", r"self\.training"),
    "indices": (lambda: nn.MaxPool2d(2, return_indices=True), "MaxPool2d", "return_indices"),
    "added": (of(lambda x: torch.add(x, x, alpha=2)), r"operation\.add", "alpha"),
    "index_sum": (of(lambda x: torch.cumsum(x, 1)), r"operation\.cumsum", "add_rule"),
    "absolute": (of(torch.abs), r"operation\.abs", "add_rule"),
    "maximum": (of(lambda x: torch.max(x, dim=1)[0]), r"operation\.max", "add_rule"),
    "pieces_slice": (of(lambda x: torch.cat(x.chunk(4, 1)[1:3], 1)), "chunk", "no rule"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_with_its_place_and_reason(name):
    make, place, reason = REFUSED[name]
    model = nn.Sequential()
    model.operation = make()
    model.relu = nn.ReLU()
    with pytest.raises(UnsupportedError, match="have no rule") as caught:
        split(model.eval().to("meta"), products="refuse")
    told = str(caught.value.nodes[0])
    assert re.search(place, told), told
    assert re.search(reason, told), told


def test_a_refusal_lists_everything_at_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc, self.gate = nn.LayerNorm(8), nn.Linear(8, 8), Gate()

        def forward(self, x):
            return F.gelu(self.gate(self.fc(self.norm(x)))) ** 3

    with torch.device("meta"):
        model = nn.Sequential(Block(), nn.Sequential(Block(), nn.Softmax(1)))
    with pytest.raises(UnsupportedError) as caught:
        split(model, products="refuse")
    paths = [node.path for node in caught.value.nodes]
    assert paths == [
        *("0.norm (LayerNorm)", "0.gate.mul (mul)", "0.pow (pow)"),
        *("1.0.norm (LayerNorm)", "1.0.gate.mul (mul)", "1.0.pow (pow)"),
    ]  # the softmax at the end is left out
    assert "cannot split Sequential: 6 of its operations have no rule" in str(caught.value)


LOCAL = {  # refused only where nothing may be held; tests/split/test_local.py splits such networks
    *("gate", "square", "power", "quotient", "matmul", "attention"),
    *("layer_norm", "flayer_norm", "group_norm", "instance_norm"),
}


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in LOCAL])
def test_what_is_no_coefficient_is_refused_by_default_too(name):
    make, place, reason = REFUSED[name]
    model = nn.Sequential()
    model.operation, model.relu = make(), nn.ReLU()
    with pytest.raises(UnsupportedError, match="have no rule") as caught:
        split(model.eval().to("meta"))
    told = str(caught.value.nodes[0])
    assert re.search(place, told), told
    assert re.search(reason, told), told


def test_a_coefficient_that_is_added_to_an_activation_is_refused():
    """It would be a constant of the image, which explains nothing."""
    model = nn.Sequential(Function(lambda x: x + torch.softmax(x, 1)), nn.ReLU())
    with pytest.raises(UnsupportedError, match="softmax divides by a sum of activations"):
        split(model)


def test_logits_that_the_image_reaches_through_coefficients_only_are_refused():
    attend = Function(lambda x, w: F.scaled_dot_product_attention(x, x, w), w=(2, 4, 6, 3))
    model = nn.Sequential(attend, nn.Flatten())
    with pytest.raises(UnsupportedError, match="through coefficients only, which are held"):
        split(model)


@pytest.mark.parametrize("products", ["hold", None])
def test_other_choices_for_products_are_refused(products):
    with pytest.raises(OptionError, match="not 'held' or 'refuse'"):
        split(nn.Sequential(nn.Conv2d(2, 2, 1)), products=products)


@pytest.mark.parametrize("module", [nn.CELU(-1.0), nn.Softplus(beta=-2.0)])
def test_options_without_bounded_slopes_are_refused(module):
    with pytest.raises(UnsupportedError, match="slopes are bounded where it is positive"):
        split(nn.Sequential(nn.Conv2d(2, 2, 1), module))
