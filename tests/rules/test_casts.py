"""Networks that change the type of their activations, and networks of half precision."""

import itertools
from functools import partial

import pytest
import torch
from effort import slow_except
from torch import nn
from torchvision import models

from dmn.canonize import canonize
from dmn.errors import DataError, UnsupportedError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.split import split

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PAIRS = list(itertools.product(TYPES, TYPES))
QUICK = [PAIRS[1], PAIRS[4], PAIRS[6], PAIRS[8], PAIRS[13]]


def images(dtype=torch.float32):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def stack(depth):
    return [
        layer
        for _ in range(depth)
        for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    ]


class TwoTypes(nn.Module):
    """A body and a head, each of its own type, and a cast before each."""

    def __init__(self, body, head, depth=2):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), *stack(depth)).to(body)
        self.head = nn.Sequential(*stack(depth), nn.Flatten(), nn.Linear(512, 3)).to(head)
        self.eval()

    def forward(self, x):
        x = self.body(x.to(self.body[0].weight.dtype))
        return self.head(x.type_as(self.head[-1].weight))


@pytest.mark.parametrize(("body", "head"), PAIRS)
def test_a_change_of_type_splits_exactly(body, head):
    model, x = TwoTypes(body, head), images()
    ours = split(model, x)
    assert torch.equal(ours(x), model(x))
    inputs = x.clone().requires_grad_()
    model(inputs)[:, 1].sum().backward()
    truth = ours.read(x, torch.tensor([1, 1]), ["input"], streams=("g-h",))
    assert torch.equal(truth["input"]["g-h"].delta_p, inputs.grad)
    assert canonize(model, x)(x).dtype is head


@pytest.mark.parametrize("types", slow_except(QUICK, PAIRS))
def test_streams_that_no_narrow_type_holds_are_cast_in_another_unit(types):
    """Literal streams explode: far beyond what float16 holds, they stay finite, and alike."""
    (body, head), x = types, images()
    ours = split(TwoTypes(body, head, 12), x, pool="convex", theta=1.0)
    exact = split(TwoTypes(torch.float32, torch.float32, 12).double(), x.double(), theta=1.0)
    for layer in ("input", "body", "type_as", "head.3"):
        # Unshifted, for a difference of large evidence is lost in narrow types.
        unshifted = partial(SplitLRP, alpha=0.0, head_alpha=0.0)
        for method in (SplitCAM, SplitGrad, unshifted):
            ours_map, exact_map = (
                method(split_model, layer, "g", theta=1.0)(images_of_type, 1).flatten(1)
                for split_model, images_of_type in ((ours, x), (exact, x.double()))
            )
            assert ours_map.isfinite().all()
            assert (torch.cosine_similarity(ours_map, exact_map) > 0.98).all(), (layer, method)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_of_half_precision_work(name, dtype):
    torch.manual_seed(0)
    model = models.get_model(name, num_classes=4).eval().to(dtype)
    x = torch.rand(2, 3, 64, 64).to(dtype)
    ours = split(model, x)
    assert torch.equal(ours(x), model(x))
    assert ours(x).dtype is dtype
    assert SplitLRP(ours, stream="g")(x, 1).isfinite().all()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in canonize(model, x).modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_channels_last_works(name):
    torch.manual_seed(0)
    model = models.get_model(name, num_classes=4).eval().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
    ours = split(model, x)
    assert torch.equal(ours(x), model(x))
    assert SplitCAM(ours, ours.layers[-1])(x, 1).isfinite().all()
    assert torch.allclose(canonize(model, x)(x), model(x), atol=1e-4)


class Bytes(nn.Module):
    """Takes images of bytes, or of floats from 0 to 255."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.conv(x.float() / 255).relu().mean((2, 3)))


def test_images_of_bytes_are_refused_and_their_floats_work():
    model = Bytes().eval()
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    with pytest.raises(DataError, match=r"uint8.*give floating point"):
        split(model, x)
    ours = split(model, x.float())
    assert torch.equal(ours(x.float()), model(x))
    for use in (ours.certificate, SplitCAM(ours, "conv"), ours.g):
        with pytest.raises(DataError, match="uint8"):
            use(x)


def test_overwriting_what_a_cast_may_share_is_refused():
    class Overwriting(nn.Module):
        def forward(self, x):
            y = x.float()
            y.relu_()
            return (x + y).flatten(1)

    with pytest.raises(UnsupportedError, match="overwrites a view"):
        split(Overwriting())
