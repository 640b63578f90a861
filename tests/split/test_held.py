"""What is held at the image is listed by the modules that users know."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.split import split

SIZES = {8: 2.0}  # by the side of the images; only torch.export follows such a lookup


class Excite(nn.Module):
    """A gate that is computed and multiplied within one module."""

    def __init__(self, gate):
        super().__init__()
        self.fc, self.gate = nn.Conv2d(4, 4, 1), gate

    def forward(self, x):
        return x * self.gate(self.fc(x.mean((2, 3), keepdim=True)))


class Attention(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.qkv, self.out, self.mix = nn.Linear(4, 12), nn.Linear(4, 4), mix
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (part.contiguous() for part in self.qkv(tokens).chunk(3, -1))
        return self.out(self.mix(self, q, k, v)).transpose(1, 2).reshape(x.shape)


class Norm(nn.LayerNorm):
    """As ConvNeXt has it: a class without a rule of its own, which calls the function."""

    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias)
        return x.permute(0, 3, 1, 2)


class Twice(nn.Module):
    """Two gates in one module."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = x * torch.sigmoid(self.one(x))
        return x * torch.tanh(self.two(x))


class LookedUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.excite = Excite(nn.Sigmoid())

    def forward(self, x):
        return self.excite(x) * SIZES[x.shape[2]]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def written_out(self, q, k, v):
    return self.dropout((q @ k.transpose(1, 2)).softmax(-1)) @ v


def called(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def expanded(x):
    """Efficient channel attention of timm: the gate takes the shape of what it multiplies."""
    return x * x.mean((2, 3), keepdim=True).sigmoid().expand_as(x)


NETWORKS = {
    "gate": (lambda: Excite(nn.Sigmoid()), {"1 (Excite)": "Sigmoid"}),
    "moved gate": (
        lambda: Excite(nn.Sequential(nn.Hardsigmoid(), nn.Identity(), nn.Dropout())),
        {"1 (Excite)": "Hardsigmoid"},
    ),
    "expanded gate": (lambda: Function(expanded), {"1 (Function)": "sigmoid"}),
    "attention written out": (lambda: Attention(written_out), {"1 (Attention)": "softmax"}),
    "attention": (lambda: Attention(called), {"1 (Attention)": "the attention weights"}),
    "norm": (lambda: Norm(4), {"1 (Norm)": "mean and 1 / sigma"}),
    "quotient": (
        lambda: Function(lambda x: x / (1 + x.square().mean((2, 3), keepdim=True))),
        {"1 (Function)": "the denominator"},
    ),
    "product": (
        lambda: Function(lambda x: x * x.roll(1, 2)),
        {"1 (Function)": "each factor for the other"},
    ),
    "two gates": (Twice, {"1.mul (mul)": "sigmoid", "1 (mul)": "tanh"}),
    "captured": (LookedUp, {"1.excite (Excite)": "Sigmoid"}),
}


def around(operation):
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), operation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_module_and_its_coefficient_are_named(name):
    make, expected = NETWORKS[name]
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    assert split(around(make()), x).held == expected


def test_a_module_that_is_called_twice_is_listed_twice():
    excite, norm = Excite(nn.Sigmoid()), nn.GroupNorm(2, 4)
    model = split(around(nn.Sequential(excite, norm, excite, norm)))
    assert model.held == {
        "1.0 (mul)": "Sigmoid",
        "1.1 (GroupNorm)": "mean and 1 / sigma",
        "1.0_1 (mul)": "Sigmoid",
        "1.1_1 (GroupNorm)": "mean and 1 / sigma",
    }


def test_what_the_network_itself_multiplies_has_the_name_of_its_layer(caplog):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.excite = nn.Linear(4, 3), Excite(nn.Sigmoid())

        def forward(self, x):
            x = self.excite(x)
            return self.fc((x * x.sigmoid()).mean((2, 3)))

    with caplog.at_level(logging.INFO, logger="dmn"):
        model = split(Gated().eval())
    assert model.held == {"excite (Excite)": "Sigmoid", "mul (mul)": "sigmoid"}
    assert "coefficients of 1 Excite, 1 mul are held there" in caplog.text


def test_the_certificate_counts_by_class_and_coefficient():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    model = split(around(nn.Sequential(Excite(nn.Sigmoid()), Norm(4), Excite(nn.Sigmoid()))), x)
    lines = [line.split("  ") for line in str(model.certificate(x)).splitlines()]
    rows = {line[0]: line[-1].strip() for line in lines}
    assert rows["at this image only: Excite"] == "2, Sigmoid held"
    assert rows["at this image only: Norm"] == "1, mean and 1 / sigma held"
