"""Random small networks: convolutions, norms, branches, every activation, every pool."""

import torch
from hypothesis import strategies as st
from small_pairs import randomise
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu_in_place": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "steep": lambda: nn.LeakyReLU(1.5),
    "turned": lambda: nn.LeakyReLU(-0.3),
    "prelu": lambda: nn.PReLU(4, 0.3),
    "hardtanh": nn.Hardtanh,
    "lifted": lambda: nn.Hardtanh(-2.0, -0.5),
    "elu": lambda: nn.ELU(1.3),
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "no bias": lambda: nn.Conv2d(4, 4, 3, padding=1, bias=False),
    "grouped": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "reflected": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2),
    "norm": lambda: nn.BatchNorm2d(4, eps=0.1),
    "bare norm": lambda: nn.BatchNorm2d(4, affine=False),
}
POOLS = {
    "max": lambda: nn.MaxPool2d(2, 2),
    "overlapping": lambda: nn.MaxPool2d(3, 2, padding=1),
    "ceiling": lambda: nn.MaxPool2d(2, 2, ceil_mode=True),
    "dilated max": lambda: nn.MaxPool2d(2, 1, dilation=2),
    "average": lambda: nn.AvgPool2d(2, 2),
    "adaptive max": lambda: nn.AdaptiveMaxPool2d(3),
    "upsampled": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
}


class Sum(nn.Module):
    def __init__(self, inner, sign):
        super().__init__()
        self.inner, self.sign = inner, sign

    def forward(self, x):
        return x + self.inner(x) if self.sign > 0 else x - self.inner(x)


class Concatenation(nn.Module):
    """Two branches side by side, half of each kept."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        left, right = torch.cat([x, self.inner(x)], 1).chunk(2, dim=1)
        return torch.cat([left[:, :2], right[:, 2:]], 1)


class Constants(nn.Module):
    """Shifts and scales, by numbers and by parameters of either sign."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        return (0.3 - x * self.factor) / -1.5 + self.factor


class Shuffle(nn.Module):
    def forward(self, x):
        b, c, h, w = x.size()
        return torch.transpose(x.view(b, 2, c // 2, h, w), 1, 2).contiguous().view(b, -1, h, w)


class Head(nn.Module):
    """Pool to a vector and classify."""

    def __init__(self, mean):
        super().__init__()
        self.mean, self.fc = mean, nn.Linear(4, 3)
        self.pool, self.norm = nn.AdaptiveAvgPool2d(1), nn.BatchNorm1d(4)

    def forward(self, x):
        pooled = x.mean([2, 3]) if self.mean else torch.flatten(self.pool(x), 1)
        return self.fc(self.norm(pooled))


linear = st.sampled_from(sorted(CONVOLUTIONS)).map(lambda name: lambda: CONVOLUTIONS[name]())
nonlinear = st.sampled_from(sorted(ACTIVATIONS)).map(lambda name: lambda: ACTIVATIONS[name]())
pool = st.sampled_from(sorted(POOLS)).map(lambda name: lambda: POOLS[name]())
extra = st.sampled_from([Constants, Shuffle])
plain = st.lists(st.tuples(linear, nonlinear), min_size=1, max_size=2)


def chain(layers):
    return nn.Sequential(*(make() for pair in layers for make in pair))


branch = st.builds(
    lambda layers, kind: (
        lambda: Concatenation(chain(layers)) if kind == 0 else Sum(chain(layers), kind)
    ),
    plain,
    st.sampled_from([0, 1, -1]),
)
block = st.one_of(linear, nonlinear, extra, branch, branch, pool)


def build(blocks, mean, seed):
    """Make the network that was drawn, in float64, with drawn weights and statistics."""
    torch.manual_seed(seed)
    body = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), *(make() for make in blocks)]
    return randomise(nn.Sequential(*body, Head(mean))).double().eval()


def pools_at_most_twice(blocks):
    names = [make().__class__.__name__ for make in blocks]
    return sum("Pool" in name for name in names) <= 2 and names.count("Upsample") <= 1


networks = st.builds(
    build,
    st.lists(block, min_size=1, max_size=5).filter(pools_at_most_twice),
    st.booleans(),
    st.integers(0, 2**16),
)
