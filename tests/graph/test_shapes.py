"""Control flow that depends on shapes is traced by an example; batches of other sizes work."""

import builtins
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.canonize import canonize
from dmn.errors import UnsupportedError
from dmn.explain import SplitCAM, SplitLRP
from dmn.graph.trace import trace
from dmn.split import split


def images(batch=2, size=8, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(4)).to(dtype)


class Body(nn.Module):
    """A forward as a function of the network and images (B, 3, 8, 8), and layers for it."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(5)
        self.function = function
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 3)
        self.pooled = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x):
        return self.function(self, x)

    def features(self, x):
        return F.relu(self.norm(self.conv(x)))


def asserted(self, x):
    assert x.shape[1] == 3, f"3 channels, not {x.shape[1]}"
    assert x.ndim == 4
    assert len(x.shape) == 4
    assert x.shape[0] > 0
    assert tuple(x.shape[1:]) == (3, 8, 8)
    return self.fc(self.features(x).flatten(1))


def three_dimensions(self, x):
    if x.dim() == 3:
        x = x.unsqueeze(0)
    return self.fc(self.features(x).flatten(1))


def viewed_by_length(self, x):
    return self.fc(self.features(x).view(len(x), -1))


def product_of_sizes(self, x):
    x, size = self.features(x), 1
    for axis in x.shape[1:]:
        size *= axis
    return self.fc(x.view(-1, size))


def product_by_numpy(self, x):
    x = self.features(x)
    return self.fc(x.view(-1, int(np.prod(x.shape[1:]))))


def product_by_math(self, x):
    x = self.features(x)
    return self.fc(x.view(x.shape[0], math.prod(x.shape[1:])))


def unpacked(self, x):
    batch, _, height, width = x.size()
    return self.fc(self.features(x).reshape(batch, 4 * height * width))


def starred(self, x):
    x = self.features(x)
    first, *others = x.shape
    grouped = x.view(first, 2, 2, *others[1:])
    return self.fc(grouped.reshape(x.size(0), -1))


def indices_of_channels(self, x):
    x = self.features(x)
    return self.pooled(sum(x[:, i : i + 1].mean() * 0 + x for i in range(x.shape[1])).mean((2, 3)))


def list_of_pieces(self, x):
    pieces = self.features(x).chunk(4, 1)
    assert len(pieces) == 4
    return self.pooled(torch.cat([piece * 0.5 for piece in reversed(list(pieces))], 1).mean((2, 3)))


def by_parity(self, x):
    if x.shape[-1] % 2 or x.shape[-2] % 2:
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    return self.pooled(self.features(x).mean((2, 3)))


def same_shape(self, x):
    y, z = self.one(self.features(x)), self.two(self.features(x))
    if y.shape != z.shape:
        y = F.interpolate(y, size=z.shape[2:])
    return self.pooled((y + z).mean((2, 3)))


def larger_side(self, x):
    side = max(x.shape[2], x.shape[3])
    x = F.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]))
    return self.pooled(self.features(x).mean((2, 3)))


def by_type(self, x):
    if x.dtype == torch.uint8:
        x = x / 255
    if not x.is_floating_point() or x.dtype != self.scale.dtype:
        x = x.to(self.scale.dtype)
    if x.is_cuda or x.device.type == "cuda":
        x = -x
    return self.pooled((self.features(x) * self.scale).mean((2, 3)))


def by_parameter(self, x):
    x = self.features(x)
    if self.scale.shape[1] == x.shape[1] and len(self.scale) == 1:
        x = x * self.scale
    return self.pooled(x.mean((2, 3)))


def root_of_size(self, x):
    x = self.features(x).flatten(2)
    side = int(math.sqrt(x.shape[2]))
    half = int(x.shape[-1] ** 0.5)
    return self.pooled(x.view(-1, 4, side, half).mean((2, 3)))


def window_of_size(self, x):
    x = self.features(x)
    return self.pooled(F.avg_pool2d(x, x.size()[2:]).flatten(1))


def while_large(self, x):
    x = self.features(x)
    while x.shape[2] > 2:
        x = F.relu(self.two(F.avg_pool2d(x, 2)))
    return self.pooled(x.mean((2, 3)))


def zeros_of_shape(self, x):
    x = self.features(x)
    return self.pooled((torch.zeros((x.shape[0], 4, 1, 1)) + 1 + x).mean((2, 3)))


FORWARDS = [
    *(asserted, three_dimensions, viewed_by_length, product_of_sizes, product_by_numpy),
    *(product_by_math, unpacked, starred, indices_of_channels, list_of_pieces, by_parity),
    *(same_shape, larger_side, by_type, by_parameter, root_of_size, window_of_size, while_large),
    zeros_of_shape,
]
FOR_ANY_SIZE = [same_shape, larger_side, by_type, by_parameter, window_of_size, zeros_of_shape]


@pytest.mark.parametrize("function", FORWARDS)
def test_an_example_decides_and_batches_of_other_sizes_work(function):
    model, x = Body(function).eval(), images()
    ours, plain = split(model, x), canonize(model, x)
    for batch in (2, 1, 5):
        more = images(batch)
        assert torch.equal(ours(more), model(more)), batch
        assert torch.allclose(plain(more), model(more), atol=1e-5), batch
        assert SplitCAM(ours, "conv")(more, 1).isfinite().all()
        assert SplitLRP(ours, stream="g")(more, 1).isfinite().all()


@pytest.mark.parametrize("function", FOR_ANY_SIZE)
@pytest.mark.parametrize("size", [6, 7, 12])
def test_images_of_other_sizes_work_where_no_branch_depends_on_them(function, size):
    model = Body(function).eval()
    ours, more = split(model, images()), images(3, size)
    assert torch.equal(ours(more), model(more))


def doubled_if_many(self, x):
    x = self.features(x)
    if len(x) > 3:
        x = 2 * x
    return self.pooled(x.mean((2, 3)))


def sum_of_rows(self, x):
    x = self.features(x).mean(2)
    return self.pooled(sum(x[:, :, i] for i in range(x.shape[2])))


def weighted_by_integer(self, x):
    return self.pooled(self.features(x).mean((2, 3)) * int(x.shape[3]))


def as_many_blocks_as_images(self, x):
    first, x = x[:1], self.features(x)
    for _ in first[0, 0]:
        x = F.relu(x - 0.01)
    return self.pooled(x.mean((2, 3)))


def pieces_of_two(self, x):
    return self.pooled(sum(self.features(x).split(2, 3)[i] for i in (0, 1)).mean((2, 3))) + sum(
        piece.mean((1, 2, 3))[:, None] for piece in self.features(x).split(2, dim=2)
    )


# What goes another way for which images.
ELSEWHERE = {
    "batch": (doubled_if_many, images(4)),
    "range": (sum_of_rows, images(2, 9)),
    "integer": (weighted_by_integer, images(2, 6)),
    "rows": (as_many_blocks_as_images, images(2, 10)),
    "pieces": (pieces_of_two, images(2, 12)),
    "odd": (by_parity, images(2, 7)),
    "loop": (while_large, images(2, 32)),
    "type": (by_type, images(dtype=torch.float64)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_images_that_would_lead_elsewhere_are_refused(name):
    function, others = ELSEWHERE[name]
    model, x = Body(function).eval(), images()
    ours, plain = split(model, x), canonize(model, x)
    assert torch.equal(ours(x), model(x))
    explain = SplitCAM(ours, "conv")
    for run in (ours, plain, ours.g, lambda images: explain(images, 1)):
        with pytest.raises(UnsupportedError, match="at Body goes another way") as refused:
            run(others)
        assert len(refused.value.lines) == 1
    other_way = model if name == "type" else split(model, others)
    assert torch.equal(other_way(others), model(others))


def test_the_refusal_names_the_module():
    model = nn.Sequential(nn.Identity(), Body(doubled_if_many)).eval()
    with pytest.raises(UnsupportedError, match="at '1' goes another way"):
        split(model, images())(images(4))


NEED_AN_EXAMPLE = [three_dimensions, product_of_sizes, by_parity, while_large, sum_of_rows]


@pytest.mark.parametrize("function", NEED_AN_EXAMPLE)
def test_without_an_example_the_refusal_asks_for_one(function):
    for transform in (split, canonize):
        with pytest.raises(
            UnsupportedError, match="the shape of the images; pass images as"
        ) as told:
            transform(Body(function).eval())
        assert len(told.value.lines) == 1


COMPUTE_ONLY = [viewed_by_length, product_by_math, unpacked, window_of_size]


@pytest.mark.parametrize("function", COMPUTE_ONLY)
def test_what_only_computes_with_shapes_needs_no_example(function):
    model = Body(function).eval()
    assert torch.equal(split(model)(images(3)), model(images(3)))


def by_sign(self, x):
    return self.pooled(self.features(x if x.sum() > 0 else -x).mean((2, 3)))


def by_item(self, x):
    return self.pooled(self.features(x).mean((2, 3)) * float(x.max()))


def by_values_in_a_loop(self, x):
    while x.abs().max() > 1:
        x = x / 2
    return self.pooled(self.features(x).mean((2, 3)))


@pytest.mark.parametrize("function", [by_sign, by_item, by_values_in_a_loop])
@pytest.mark.parametrize("example", [None, images()], ids=["without", "with"])
def test_branches_on_values_are_refused_even_with_an_example(function, example):
    with pytest.raises(UnsupportedError, match="must not branch on values") as refused:
        split(Body(function).eval(), example)
    assert len(refused.value.lines) == 1


def test_overwriting_changes_neither_the_example_nor_the_answers():
    def forward(self, x):
        x = self.features(x.mul_(2)).relu_()
        x.squeeze_().unsqueeze_(0)
        return self.pooled(x.mean((2, 3)) if x.dim() == 4 else x)

    model, x = Body(forward).eval(), images(1)
    before = x.clone()
    network = trace(model, example=x).network
    assert torch.equal(x, before)
    assert torch.equal(network(x), model(before.clone()))


def test_builtins_and_modules_are_put_back():
    names = ("isinstance", "len")
    kept = [getattr(builtins, name) for name in names]
    methods = nn.Module.__call__, nn.Module.__getattr__
    for function in (three_dimensions, by_sign, while_large):
        try:
            split(Body(function).eval(), images())
        except UnsupportedError:
            assert function is by_sign
        assert [getattr(builtins, name) for name in names] == kept
        assert (nn.Module.__call__, nn.Module.__getattr__) == methods


def test_a_branch_on_gradients_goes_as_in_a_prediction():
    def forward(self, x):
        x = self.features(x)
        return self.pooled((2 * x if x.requires_grad else x + 1).mean((2, 3)))

    model, x = Body(forward).eval(), images()
    for example in (None, x):
        with torch.no_grad():
            assert torch.equal(split(model, example)(x), model(x))


class Optional(nn.Module):
    """Arguments with defaults are no inputs: the network is what it is without them."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, pixels=None, mask=None, return_features=False, *, scale=2.0, labels=None):
        assert pixels is not None
        x = self.conv(pixels).relu()
        if mask is not None:
            x = x * mask
        if return_features or labels is not None:
            return x
        return self.fc(x.mean((2, 3)) * scale)


def test_arguments_with_defaults_have_their_defaults():
    model, x = Optional().eval(), images()
    for example in (None, x):
        assert torch.equal(split(model, example)(x), model(x))
        assert torch.allclose(canonize(model, example)(x), model(x), atol=1e-6)
