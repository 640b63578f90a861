"""Networks of mosaics whose tiles are disconnected, by construction and not by measurement."""

import effort
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.errors import UnsupportedError
from dmn.evaluate import METRICS, score
from dmn.evaluate.disconnected import difull, dipart
from dmn.evaluate.grid import TILES, tile
from dmn.evaluate.mosaics import put_together, take_apart
from dmn.explain import RandomMap, list_methods
from dmn.explain.layers import last_stage
from dmn.models import (
    VGG16BN,
    ConvNeXt,
    DifferenceOfMonotone,
    MonotoneConvNet,
    MonotoneMLP,
    PlainCNN,
    ResNet18,
)
from dmn.split import split

NETWORKS = {
    "plain": (lambda: PlainCNN(1, widths=(4, 6), num_classes=3), (1, 20, 28)),
    "odd": (lambda: PlainCNN(1, widths=(4, 6, 6), num_classes=3), (1, 28, 28)),
    "flattened": (
        lambda: nn.Sequential(
            *(nn.ZeroPad2d(1), nn.Conv2d(2, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.ReLU()),
            *(nn.AvgPool2d(3, 1, 1), nn.Flatten(), nn.Linear(144, 3)),
        ),
        (2, 12, 12),
    ),
    "convolution in the head": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3)),
            *(nn.Conv2d(4, 3, 3), nn.Flatten()),
        ),
        (2, 8, 8),
    ),
    "shared": (lambda: Shared(), (2, 8, 8)),
    "resnet": (lambda: ResNet18(3, width=4, stem="small"), (3, 32, 32)),
    "vgg": (lambda: VGG16BN(3, width=4, grid=2), (3, 32, 32)),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=3), (3, 64, 64)),
    "vgg11": (lambda: torchvision.models.vgg11(num_classes=3), (3, 32, 32)),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=3), (3, 40, 40)),
    "convnext": (lambda: ConvNeXt(3), (3, 64, 64)),
    "googlenet": (
        lambda: torchvision.models.googlenet(num_classes=3, init_weights=False),
        (3, 64, 64),
    ),
    "functional": (lambda: Pools(), (2, 8, 10)),
    "block": (lambda: Blurs(), (2, 8, 8)),
    "gated": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), (3, 64, 64)),
    "swin": (lambda: torchvision.models.swin_t(num_classes=3), (3, 64, 64)),
    "inception": (
        lambda: torchvision.models.inception_v3(num_classes=3, init_weights=False),
        (3, 96, 96),
    ),
    "densenet": (lambda: torchvision.models.densenet121(num_classes=3), (3, 64, 64)),
    **{
        f"difference, {inputs}": (lambda inputs=inputs: pair(inputs), (1, 12, 16))
        for inputs in ("paired", "inverted", "plain", "opposed")
    },
    "difference of perceptrons": (lambda: perceptrons(), (1, 6, 6)),
    "difference with a front": (
        lambda: pair("opposed", nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()), 3),
        (2, 12, 12),
    ),
}
QUICK = (
    "convolution in the head",
    *("plain", "odd", "flattened", "shared", "resnet", "vgg", "functional", "block"),
    *("difference, paired", "difference, inverted", "difference of perceptrons"),
    "difference with a front",
)
PARTLY = [  # DiPart has no gates, and a layer to read has weights and positions
    name for name in NETWORKS if name not in ("gated", "block", "difference of perceptrons")
]


def pair(inputs, front=None, channels=1):
    """Return a difference of monotone networks, whose views add a margin."""
    channels *= 1 if inputs in ("plain", "inverted") else 2
    sides = (
        MonotoneConvNet(channels, (4, 6), 1, grid=2, num_classes=3, constraint="abs")
        for _ in range(2)
    )
    return DifferenceOfMonotone(*sides, inputs=inputs, front=front)


def perceptrons():
    """Return a difference of monotone networks without convolutions."""
    return DifferenceOfMonotone(
        *(MonotoneMLP(72, (8,), num_classes=3, constraint="abs") for _ in range(2)), margin=0
    )


class Shared(nn.Module):
    """Uses one convolution twice, by two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = self.first
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.second(self.first(x).relu())
        return self.head(self.pool(x).flatten(1))


def make(name):
    """Return a network with random statistics of BatchNorm, in float64, and four tiles."""
    build, shape = NETWORKS[name]
    return randomise(build()), torch.rand(TILES, *shape, dtype=torch.float64)


def randomise(model):
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.2)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias, std=0.2)
    return model.double().eval()


def area(place, shape):
    """Return where a tile is, 0 or 1."""
    tiles = torch.zeros(TILES, 1, *shape[-2:])
    tiles[place] = 1
    return tile(tiles)[0, 0].bool()


@pytest.mark.parametrize("name", effort.slow_except(QUICK, NETWORKS))
def test_each_tile_is_classified_as_the_image_that_it_is(name):
    model, tiles = make(name)
    expected = model(tiles)
    assert expected.std(dim=0).max() > 0  # the tiles differ
    for place in range(TILES):
        mosaic = tile(tiles).requires_grad_()
        logits = difull(model, tiles[:1], place)(mosaic)
        assert torch.allclose(logits, expected[place : place + 1], rtol=1e-10, atol=1e-12)
        (gradient,) = torch.autograd.grad(logits[0, 1], mosaic)
        inside = area(place, tiles.shape)
        assert (gradient[..., ~inside] == 0).all()
        assert (gradient[..., inside] != 0).any()


@pytest.mark.parametrize(
    "name", effort.slow_except([name for name in QUICK if name in PARTLY], PARTLY)
)
def test_layers_of_dipart_are_those_of_the_network_on_the_mosaic(name):
    model, tiles = make(name)
    mosaic = tile(tiles)
    layer = last_stage(model, tiles[:1])
    outputs = {}
    for network in (model, dipart(model, tiles, 3)):
        hook = network.get_submodule(layer).register_forward_hook(
            lambda module, args, output: outputs.update({module: output.clone()})
        )
        try:
            logits = network(mosaic)
        except RuntimeError:  # of a head for the size of a tile
            assert network is model
        hook.remove()
    assert torch.equal(*outputs.values())
    assert logits.shape == (1, 3)


@pytest.mark.parametrize("name", ["plain", "resnet", "vgg"])
@pytest.mark.parametrize("disconnect", [difull, dipart])
def test_layers_keep_their_names_and_return_mosaics(name, disconnect):
    model, tiles = make(name)
    network = disconnect(model, tiles, 0)
    layer = last_stage(model, tiles)
    assert last_stage(network, tile(tiles)) == layer
    sizes = []
    for net, x in ((model, tiles), (network, tile(tiles))):
        with net.get_submodule(layer).register_forward_hook(
            lambda module, args, output: sizes.append(output.shape)
        ):
            net(x)
    assert sizes[1][2:] == tuple(2 * side for side in sizes[0][2:])
    assert {name for name, _ in model.named_modules()} <= {n for n, _ in network.named_modules()}


def test_dipart_leaks_through_receptive_fields_only():
    model = randomise(
        nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    tiles = torch.rand(TILES, 1, 8, 8, dtype=torch.float64)
    mosaic = tile(tiles).requires_grad_()
    (gradient,) = torch.autograd.grad(dipart(model, tiles, 3)(mosaic)[0, 2], mosaic)
    reached = torch.zeros(16, 16, dtype=torch.bool)
    reached[6:, 6:] = True  # two pixels beyond the tile
    assert torch.equal(gradient[0, 0] != 0, reached)


def test_a_middle_line_belongs_to_no_tile():
    model = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    tiles = torch.zeros(TILES, 2, 3, 3)  # a mosaic of 6 x 6, whose pooled side is 3
    mosaic = tile(tiles)
    mosaic[..., 2:4, 2:4] = 1
    for place in range(TILES):
        assert (dipart(model, tiles, place)(mosaic) == 0).all()


@pytest.mark.parametrize("name", ["resnet", "functional"])
def test_the_network_itself_is_left_as_it_was(name):
    model, tiles = make(name)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    network = difull(model, tiles, 1)
    assert model.training
    assert not network.training
    assert names == [name for name, _ in model.named_modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in (*model.modules(), *network.modules()))


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 2, 2)])
def test_taking_apart_is_undone_and_the_order_is_that_of_tiles(shape):
    tiles = torch.rand(TILES * shape[0], *shape[1:])
    assert torch.equal(take_apart(tile(tiles)), tiles)
    assert torch.equal(put_together(tiles), tile(tiles))


class Pools(nn.Module):
    """Pools by a function, not by a module."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.conv(x).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Reads the mean of tokens."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(2, 4, 4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x).flatten(2).transpose(1, 2)).mean(dim=1))


class Branches(Pools):
    """Branches on a value in its own forward."""

    def forward(self, x):
        return super().forward(x if x.max() < 2 else x / 2)


class Gated(nn.Module):
    """Weighs channels by a pooling of the whole image."""

    def __init__(self):
        super().__init__()
        self.gate = nn.AdaptiveAvgPool2d(1)
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(2), nn.Flatten()

    def forward(self, x):
        return self.flatten(self.pool(x * self.gate(x)))


class Blurs(nn.Module):
    """Blurs by a function within a block."""

    def __init__(self):
        super().__init__()
        self.block, self.flatten = Blur(), nn.Flatten()

    def forward(self, x):
        return self.flatten(self.block(x))


class Blur(nn.Module):
    def forward(self, x):
        return nn.functional.avg_pool2d(x, 3, 1, 1)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (Tokens(), r"layer fc \(Linear\) comes after no AdaptiveAvgPool2d"),
        (Branches(), r"layer fc \(Linear\) comes after no AdaptiveAvgPool2d"),
        (nn.Sequential(Pools(), nn.Softmax(1)), r"layer 1 \(Softmax\) comes after no Adaptive"),
        (Gated(), r"layer gate \(AdaptiveAvgPool2d\) does not do to each tile"),
    ],
    ids=["tokens", "branch on values", "within a block", "gate"],
)
def test_a_layer_that_cannot_be_disconnected_is_named(model, layer):
    with pytest.raises(UnsupportedError, match=layer):
        difull(model.eval(), torch.rand(1, 2, 32, 32), 0)


def test_a_layer_may_return_a_size_of_its_own():
    model = nn.Sequential(nn.Upsample((4, 4)), nn.Flatten(), nn.Linear(32, 3)).eval()
    network = difull(model, torch.rand(1, 2, 32, 32), 0)
    assert network(torch.rand(1, 2, 64, 64)).shape == (1, 3)


def test_dipart_refuses_what_pools_whole_mosaics_below_the_head():
    with pytest.raises(UnsupportedError, match=r"layer gate \(AdaptiveAvgPool2d\) pools the whole"):
        dipart(Gated().eval(), torch.rand(1, 2, 32, 32), 0)
    model = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    with pytest.raises(UnsupportedError, match=r"block.1.avgpool \(AdaptiveAvgPool2d\) pools the"):
        dipart(model, torch.rand(1, 3, 64, 64), 0)


def test_what_fails_on_mosaics_is_named():
    model = nn.Sequential(
        nn.Unflatten(2, (1, 8)), nn.Flatten(1, 2), nn.Flatten(), nn.Linear(128, 3)
    )
    with pytest.raises(UnsupportedError, match=r"layer 0 \(Unflatten\) fails on mosaics: "):
        difull(model.eval(), torch.rand(1, 2, 8, 8), 0)


def explainers(model, x):
    """Return every method, made for a network, without controls."""
    pair, layer = split(model, x[:1]), last_stage(model, x[:1])
    for spec in list_methods("split", "post-hoc"):
        if not spec.needs_attention:
            options = dict(spec.defaults) if spec.kind == "split" else {}
            if spec.needs_layer and spec.kind != "split":
                options["layer"] = layer
            yield spec, spec.factory(pair if spec.kind == "split" else model, **options)


EXPLAINED = ["plain", "functional", "resnet", "vgg"]


@pytest.mark.parametrize("name", effort.slow_except(["plain", "functional"], EXPLAINED))
def test_every_method_explains_disconnected_networks(name):
    model, tiles = make(name)
    model, tiles = model.float(), tiles.float()
    network, mosaic = difull(model, tiles, 2), tile(tiles)
    certificate = split(network, mosaic, theta=1, pool="convex").certificate(mosaic, network)
    assert certificate.prediction == 0
    assert certificate.gradient < 1e-5
    assert certificate.monotone.startswith("holds")
    inside = area(2, tiles.shape)
    for spec, explain in explainers(network, mosaic):
        heat = explain(mosaic, torch.tensor([1]))
        assert heat.shape == (1, 1, *mosaic.shape[2:]), spec.name
        assert heat.isfinite().all(), spec.name
        if not spec.needs_layer and spec.name != "Occlusion":  # whose windows cross the border
            outside = heat[..., ~inside].abs().max()
            exact = spec.name != "FeatureAblation"  # which subtracts logits of other batches
            assert outside <= (0 if exact else 1e-4 * heat.abs().max()), spec.name


@pytest.mark.parametrize("method", ["SplitLRP", "SplitGrad"])
@pytest.mark.parametrize("inputs", ["paired", "inverted", "opposed"])
def test_a_difference_network_explains_a_tile_as_the_image_that_it_is(inputs, method):
    model, tiles = make(f"difference, {inputs}")
    expected = model.explain(tiles, 1, method)
    for place in range(TILES):
        heat = difull(model, tiles, place).explain(tile(tiles), 1, method)
        inside = area(place, tiles.shape)
        assert (heat[..., ~inside] == 0).all()
        assert torch.allclose(heat[..., inside], expected[place].flatten(1), rtol=1e-8, atol=1e-12)
        assert heat.abs().max() > 0


class Mean(nn.Module):
    """Class k is the mean of channel k of its only, pooled layer."""

    def __init__(self):
        super().__init__()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, x):
        return self.flatten(self.pool(x))


def scored(remake, count=8, explainer=None):
    y = torch.arange(count) % 5
    x = torch.rand(count, 5, 6, 4)
    x[torch.arange(count), y] += 1
    made = score(["DiFull", "DiPart"], Mean().eval(), explainer or RandomMap(), x, y, remake=remake)
    return made["DiFull"].values, made["DiPart"].values, made["DiFull"]


def gradient_of(model, example):
    def explain(x, target):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)
        return (gradient * x).sum(dim=1, keepdim=True).detach()

    return explain


def test_the_gradient_scores_perfectly_and_maps_that_know_nothing_by_chance():
    for values in scored(gradient_of)[:2]:
        assert values.tolist() == [1] * 8
    for values in scored(lambda model, example: RandomMap(), count=200)[:2]:
        assert np.nanmean(values) == pytest.approx(0.25, abs=0.01)

    def signed(x, target):
        return RandomMap()(x, target) - 0.5

    assert np.nanmean(scored(lambda *_: signed, count=200)[0]) == pytest.approx(0.25, abs=0.01)
    ones = scored(lambda *_: lambda x, target: -torch.ones_like(x[:, :1]))
    assert ones[0].tolist() == [0.25] * 8
    assert not any(ones[2].reasons)


def test_a_map_of_zeros_scores_by_chance_and_says_so():
    zeros = scored(lambda *_: lambda x, target: torch.zeros_like(x[:, :1]))
    assert zeros[0].tolist() == [0.25] * 8
    assert zeros[2].reasons == ["map is 0, scored 0.25"] * 8


def test_the_explained_class_is_that_of_the_tile():
    """The map is right for one tile and class only, and its score that of the definition."""
    seen = []

    def remake(model, example):
        assert not model.training

        def explain(x, target):
            seen.append((x, target))
            return gradient_of(model, example)(x, target) + 0.01 * x[:, :1]

        return explain

    y = torch.arange(4)
    x = torch.rand(4, 5, 6, 4)
    x[torch.arange(4), y] += torch.arange(5, 1, -1)[:, None, None]  # the order of the mosaic
    values = score(["DiFull"], Mean().eval(), RandomMap(), x, y, remake=remake)["DiFull"].values
    assert [target.tolist() for _, target in seen] == [[0], [1], [2], [3]]
    mosaic = np.block([[x[0].numpy(), x[1].numpy()], [x[2].numpy(), x[3].numpy()]]).astype(float)
    for place, (mosaics, _) in enumerate(seen):
        assert np.allclose(mosaics[0], mosaic)
        top, left = 6 * (place // 2), 4 * (place % 2)
        heat = 0.01 * mosaic[0]
        heat[top : top + 6, left : left + 4] += x[place, place].numpy() / 24
        expected = np.abs(heat[top : top + 6, left : left + 4]).sum() / np.abs(heat).sum()
        assert values[place] == pytest.approx(expected, rel=1e-6)


def test_scores_do_not_depend_on_the_batch():
    y = torch.arange(16) % 5
    x = torch.rand(16, 5, 6, 4)
    x[torch.arange(16), y] += 1

    def remake(model, example):
        return lambda images, target: gradient_of(model, example)(images, target) + example.mean()

    whole, parts = (
        score(["DiPart"], Mean().eval(), RandomMap(), x, y, remake=remake, batch_size=size)
        for size in (64, 1)
    )
    assert np.array_equal(whole["DiPart"].values, parts["DiPart"].values, equal_nan=True)


def test_without_a_way_to_make_the_explainer_the_reason_is_told():
    values, _, made = scored(None)
    assert np.isnan(values).all()
    assert "give score(..., remake=...)" in made.reasons[0]


def test_rows_say_what_they_measure():
    for name in ("DiFull", "DiPart"):
        spec = METRICS[name]
        assert (spec.category, spec.higher_is_better, spec.range) == ("disconnection", True, (0, 1))
        assert spec.benchmark is None
        assert spec.any_map
