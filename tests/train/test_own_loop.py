"""A loop of plain torch, with one call after each step, trains what all else can read."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.errors import NotMonotoneError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.models import (
    DifferenceOfMonotone,
    MonotoneConvNet,
    MonotoneMLP,
    MonotoneResNet,
    MonotoneVGG,
    ResNet18,
    Trunk,
)
from dmn.nn import Monotone, assert_monotone, constrained, project
from dmn.split import split

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "own_loop.md"


class Bounded(Monotone, nn.Sequential):
    """Somebody's own network, of one hidden layer."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(2 * 256, 6), nn.ReLU(), nn.Linear(6, 3))


def twice(make, inputs="paired", **options):
    return DifferenceOfMonotone(make(), make(), inputs, **options)


SMALL = {"widths": (4, 6), "units": 1, "grid": 2, "num_classes": 3}
NETWORKS = {
    "conv": lambda: twice(lambda: MonotoneConvNet(2, **SMALL)),
    "inverted": lambda: twice(lambda: MonotoneConvNet(1, **SMALL), "inverted"),
    "softplus": lambda: twice(lambda: MonotoneConvNet(2, **SMALL, constraint="softplus")),
    "mlp": lambda: twice(lambda: MonotoneMLP(2 * 256, (8,), 3), margin=0),
    "resnet": lambda: twice(lambda: MonotoneResNet(2, 4, (1, 1), num_classes=3, stem="small")),
    "vgg": lambda: twice(lambda: MonotoneVGG(2, 4, (1, 1), (6,), num_classes=3)),
    "own": lambda: twice(Bounded, margin=0),
    "front": lambda: DifferenceOfMonotone(
        *(MonotoneConvNet(6, **SMALL) for _ in range(2)),
        "opposed",
        front=Trunk(ResNet18(3, width=3, stem="small", in_channels=1), "layer1"),
    ),
}
OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, 0.5, momentum=0.9),
    "adam": lambda weights: torch.optim.Adam(weights, 0.05),
}
IMAGES = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def train(net, optimizer_of, steps=3, after=project):
    optimizer = optimizer_of(net.parameters())
    for _ in range(steps):
        loss = F.cross_entropy(net(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after(net)
    return net.eval()


@pytest.fixture(params=NETWORKS)
def trained(request):
    torch.manual_seed(0)
    return train(NETWORKS[request.param](), OPTIMIZERS["adam"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_after_each_step_no_constrained_weight_is_below_its_floor(name, optimizer):
    torch.manual_seed(0)

    def check(net):
        project(net)
        weights = list(constrained(net))
        assert weights
        assert all((item.weight >= item.floor).all() for item in weights)

    assert_monotone(train(NETWORKS[name](), OPTIMIZERS[optimizer], after=check))


def test_without_the_call_the_weight_is_named():
    net = train(NETWORKS["conv"](), OPTIMIZERS["adam"], after=lambda net: None)
    with pytest.raises(NotMonotoneError, match=r"g\.net\..*weight.*call dmn\.nn\.project"):
        assert_monotone(net)
    project(net)
    assert_monotone(net)


@torch.no_grad()
def test_more_never_lowers_what_each_side_says(trained):
    features = trained.front(IMAGES)
    for side in (trained.g, trained.h):
        view = side.input(features)
        first, second = side.net(view), side.net(view + torch.rand_like(view))
        assert (second >= first - 1e-5 * first.abs().max()).all()
        assert (second > first).any()


@pytest.mark.parametrize("method", [SplitCAM, SplitGrad, SplitLRP])
def test_it_explains_itself(trained, method):
    maps = method(trained, layer=trained.sees)(IMAGES, LABELS)
    if trained.sees == "input":
        assert maps.shape == IMAGES.shape
    assert maps.isfinite().all()
    assert (maps.abs().amax((1, 2, 3)) > 0).all()


def test_it_is_split_like_any_network(trained):
    pair = split(trained, IMAGES)
    with torch.no_grad():
        assert torch.equal(pair(IMAGES), trained(IMAGES))
    maps = SplitCAM(pair, alpha=0.4)(IMAGES, LABELS)
    assert maps.isfinite().all()
    assert maps.any()


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, lambda net: nn.ModuleList([net])]
)
def test_it_is_found_within_other_modules(wrap):
    net = NETWORKS["conv"]()
    with torch.no_grad():
        for weight in (wrapped := wrap(net)).parameters():
            weight.normal_()
    project(wrapped)
    assert_monotone(wrapped)


def test_the_documents_loop_trains():
    text = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"<!-- tested: loop -->\n```python\n(.*?)```", text, re.S)
    names = {"batches": [(torch.rand(4, 1, 28, 28), torch.arange(4)) for _ in range(2)]}
    exec(compile(example, PAGE.name, "exec"), names)
    assert names["maps"].shape == (4, 1, 28, 28)
    assert names["maps"].any()
