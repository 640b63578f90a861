"""Constant scales and shifts are found however they are written, and nothing else is."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import transforms
from torchvision.ops import FrozenBatchNorm2d

from dmn.canonize import canonize, hookable
from dmn.canonize.affine import ScaleShift, find_affine

CHANNELS = 3


class Call(nn.Module):
    """A function of x and of a constant c, which is a buffer where it is a tensor."""

    def __init__(self, function, c):
        super().__init__()
        self.function = function
        if isinstance(c, torch.Tensor):
            self.register_buffer("c", c)
        else:
            self.c = c

    def forward(self, x):
        return self.function(x, self.c)


CONSTANTS = {  # whether there is one number or one for each channel
    "number": (1.7, True),
    "whole number": (-2, True),
    "scalar tensor": (torch.tensor(0.7), True),
    "by channel": (torch.tensor([0.5, -1.5, 2.0]).view(-1, 1, 1), True),
    "by channel, with a batch": (torch.tensor([0.5, -1.5, 2.0]).view(1, -1, 1, 1), True),
    "by row": (torch.tensor([0.5, -1.5, 2.0, 4.0, 0.1]).view(-1, 1), False),
    "by column": (torch.tensor([0.5, -1.5, 2.0, 4.0]), False),
    "by place": (torch.linspace(0.1, 2, 20).view(5, 4), False),
}
FORMS = {
    "x + c": lambda x, c: x + c,
    "c + x": lambda x, c: c + x,
    "x.add": lambda x, c: x.add(c),
    "torch.add by name": lambda x, c: torch.add(x, other=c),
    "x += c": lambda x, c: operator.iadd(x.clone(), c),
    "x - c": lambda x, c: x - c,
    "c - x": lambda x, c: c - x,
    "torch.sub": lambda x, c: torch.sub(x, c),
    "torch.rsub": lambda x, c: torch.rsub(x, c),
    "x * c": lambda x, c: x * c,
    "c * x": lambda x, c: c * x,
    "torch.mul": lambda x, c: torch.mul(x, c),
    "x.multiply": lambda x, c: x.multiply(c),
    "x / c": lambda x, c: x / c,
    "torch.div": lambda x, c: torch.div(x, c),
    "x.true_divide": lambda x, c: x.true_divide(c),
}


def images():
    return torch.randn(2, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(0))


def found(model, *example):
    return find_affine(hookable(model.eval(), *example))


def applied(affine, x):
    """Apply one by its definition, image by image and channel by channel."""
    if not affine.by_channel:
        return x.double() * affine.scale + affine.shift
    scale, shift = affine.scale.expand(CHANNELS), affine.shift.expand(CHANNELS)
    parts = [x[:, i].double() * scale[i] + shift[i] for i in range(CHANNELS)]
    return torch.stack(parts, 1)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("form", FORMS)
def test_arithmetic_with_a_constant(form, constant, with_example):
    c, by_channel = CONSTANTS[constant]
    model, x = Call(FORMS[form], c), images()
    (affine,) = found(model, *([x] if with_example else []))
    expected = model(x.clone())
    assert affine.by_channel == by_channel
    assert torch.allclose(applied(affine, x), expected.double(), atol=1e-6)
    assert torch.allclose(ScaleShift(affine).float()(x), expected, atol=1e-5)


OTHERS = {
    "c / x": lambda x, c: c / x,
    "x + x": lambda x, c: x + x,
    "x * x": lambda x, c: x * x,
    "times a size": lambda x, c: x * x.shape[2],
    "alpha": lambda x, c: torch.add(x, c, alpha=2),
    "rounded": lambda x, c: torch.div(x, c, rounding_mode="floor"),
    "power": lambda x, c: x**c,
    "a size alone": lambda x, c: x.flatten(1)[:, : x.shape[1] * 2 + 1],
    "statistics of the batch": lambda x, c: F.batch_norm(x, None, None, training=True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_something_else_is_not_found(name):
    assert found(Call(OTHERS[name], torch.tensor(2.0)), images()) == []


def test_one_channel_that_becomes_several_is_not_by_channel():
    (affine,) = found(Call(lambda x, c: x - c, torch.rand(3, 1, 1)), images()[:, :1])
    assert not affine.by_channel


def norm(kind):
    result = kind(CHANNELS, eps=0.2)
    result.weight.data, result.bias.data = torch.tensor([0.5, -1.0, 2.0]), torch.rand(3)
    result.running_mean, result.running_var = torch.randn(3), torch.rand(3) + 0.5
    return result


CHAINS = {
    "Normalize": transforms.Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]),
    "BatchNorm2d": norm(nn.BatchNorm2d),
    "FrozenBatchNorm2d": norm(FrozenBatchNorm2d),
    "three norms": nn.Sequential(*(norm(nn.BatchNorm2d) for _ in "abc")),
    "a norm and a number": nn.Sequential(norm(nn.BatchNorm2d), Call(lambda x, c: c - x / 3, 2)),
    "F.batch_norm": Call(lambda x, c: F.batch_norm(x, c, c + 1, None, c, eps=0.3), torch.rand(3)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_one(name):
    model, x = nn.Sequential(CHAINS[name]).eval(), images()
    (affine,) = found(model)
    assert torch.allclose(applied(affine, x), model(x).double(), atol=1e-5)


def read_twice(x, c):
    scaled = x * c
    return torch.cat([scaled + 1, scaled], 1)


def test_a_chain_ends_where_its_middle_is_read_elsewhere():
    first, second = found(Call(read_twice, 2.0))
    assert second.source is first.node


KEPT = {  # written as they are by `canonize`, where no operation beside them takes them in
    "a complement": lambda x, c: 1 - x,
    "a scale alone": lambda x, c: x * c,
    "a shift alone": lambda x, c: x + c,
    "a place's own": lambda x, c: x * c[:, :1] + c.sum(0, keepdim=True).expand(1, 5, 4),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_norm_stays_unless_it_is_folded(name):
    """A rule for convolutions would hand on another relevance than it has: all of it."""
    model = nn.Sequential(Call(KEPT[name], torch.randn(3, 1, 1)), nn.ReLU(), nn.Flatten()).eval()
    written = canonize(model, images())
    assert not [module for module in written.modules() if isinstance(module, nn.Conv2d)]


def test_a_scale_and_shift_become_a_convolution_as_a_norm_does():
    model = nn.Sequential(Call(lambda x, c: x * c - c, torch.randn(3, 1, 1)), nn.ReLU()).eval()
    written = canonize(model, images())
    assert [type(module) for module in written.children()] != [nn.ReLU]
    assert [module.groups for module in written.modules() if isinstance(module, nn.Conv2d)] == [3]


def test_a_complement_is_not_folded_and_a_norm_of_it_is():
    conv = nn.Conv2d(3, 4, 2)
    alone = nn.Sequential(Call(lambda x, c: 1 - x, 0.0), conv).eval()
    assert torch.equal(canonize(alone).get_submodule("1").weight, conv.weight)
    scaled = nn.Sequential(Call(lambda x, c: 2 * x - 1, 0.0), conv).eval()
    assert torch.allclose(canonize(scaled).get_submodule("1").weight, 2 * conv.weight)
