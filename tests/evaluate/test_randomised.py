"""Maps of networks whose weights are in random order, against the definitions."""

import math
from copy import deepcopy
from itertools import accumulate
from zlib import crc32

import numpy as np
import pytest
import torch
from effort import examples
from scipy.stats import entropy, spearmanr
from torch import nn

import dmn
from dmn.baselines import InputXGradient
from dmn.data import Scenes
from dmn.evaluate import score
from dmn.evaluate.randomised import histogram_entropy
from dmn.evaluate.shuffle import layer_blocks, randomise
from dmn.explain import RandomMap, controls, find_method
from dmn.models import DifferenceOfMonotone, MonotoneConvNet, PlainCNN
from dmn.nn import assert_monotone

SEED = 2
SIMILARITIES = ["TopDownMPRT", "TopDownMPRTSSIM", "IndependentMPRT"]
ALL = [*SIMILARITIES, "EfficientMPRT"]


@pytest.fixture
def net():
    """Three stages and a head, with statistics and parameters as if trained."""
    net = PlainCNN(1, widths=(4, 6, 8), grid=2, num_classes=3).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values.data, std=0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data += 1
    return net.requires_grad_(False)


@pytest.fixture
def x():
    return torch.rand(6, 1, 16, 16, dtype=torch.float64)


Y = torch.tensor([0, 1, 2, 0, 1, 2])


def scored(remake, net, x, metrics=ALL, **options):
    options = {"remake": remake, "seed": SEED, **options}
    return score(metrics, net, remake(net, x[:1]), x, Y[: len(x)], **options)


def gradient(model, example):
    return InputXGradient(model)


def of_weights(model, example):
    """Return noise that is another for other weights, as a method that depends on all of them."""
    state = model.state_dict().values()
    return RandomMap(crc32(b"".join(values.numpy().tobytes() for values in state)))


def test_layers_are_listed_by_depth_and_divided_evenly(net, x):
    stages = [[f"stage{k}.conv", f"stage{k}.norm"] for k in (1, 2, 3)]
    assert layer_blocks(net, x[:1]) == [*stages, ["head"]]
    long = nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(12)], nn.Flatten(), nn.Linear(256, 2))
    blocks = layer_blocks(long, x[:1].float())
    assert [name for block in blocks for name in block] == [*map(str, range(12)), "13"]
    assert sorted(map(len, blocks)) == [2, 2, 3, 3, 3]
    assert layer_blocks(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), x[:1].float()) == [["1"]]


class Backwards(nn.Module):
    """Layers are registered in another order than they run; one is never used."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.beside = nn.Conv2d(1, 2, 1)
        self.unused = nn.Linear(5, 5)
        self.second = nn.Conv2d(2, 2, 3)
        self.first = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        deep = self.second(self.norm(self.first(x)).relu())
        shallow = self.beside(x[..., 2:-2, 2:-2])
        return self.head(nn.functional.adaptive_avg_pool2d(deep + shallow, 2).flatten(1))


def test_depth_is_that_of_the_computation_not_of_the_listing(x):
    first, *middle, last = layer_blocks(Backwards().eval(), x[:1].float())
    assert first == ["first", "norm"]
    assert {name for block in middle for name in block} == {"second", "beside"}
    assert last == ["head"]


def test_both_sides_of_a_pair_are_randomised_together(x):
    sides = [MonotoneConvNet(2, widths=(4, 4), grid=2, num_classes=3) for _ in range(2)]
    pair = DifferenceOfMonotone(*sides, inputs="opposed").eval()
    blocks = layer_blocks(pair, x[:1].float())
    for block in blocks:
        one, two = ({n[2:] for n in block if n.startswith(side)} for side in ("g.", "h."))
        assert one == two
        assert one
    everything = [name for block in blocks for name in block]
    changed = randomise(pair, everything, SEED)
    assert_monotone(changed.g)
    assert not torch.equal(changed(x.float()), pair(x.float()))


def test_only_named_layers_change_and_only_their_order(net):
    before = deepcopy(net.state_dict())
    changed = randomise(net, ["stage2.conv", "stage2.norm"], SEED)
    for name, values in net.state_dict().items():
        assert torch.equal(values, before[name]), name
        other = changed.state_dict()[name]
        assert torch.equal(other.flatten().sort().values, values.flatten().sort().values), name
        moved = name.startswith(("stage2.conv", "stage2.norm")) and values.dim() > 0
        assert torch.equal(other, values) != moved, name


def test_parameters_and_statistics_of_a_channel_stay_together(net):
    names = ["weight", "bias", "running_mean", "running_var"]
    old, new = (
        torch.stack([getattr(model.stage3.norm, name) for name in names], dim=1)
        for model in (net, randomise(net, ["stage3.norm"], SEED))
    )
    assert sorted(old.tolist()) == sorted(new.tolist())
    assert not torch.equal(old, new)


def test_the_order_follows_from_the_seed_and_the_layer(net):
    alone = randomise(net, ["stage2.conv"], SEED)
    among = randomise(net, ["stage1.conv", "stage2.conv", "head"], SEED)
    other = randomise(net, ["stage2.conv"], SEED + 1)
    assert torch.equal(alone.stage2.conv.weight, among.stage2.conv.weight)
    assert not torch.equal(alone.stage2.conv.weight, other.stage2.conv.weight)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(
        randomise(net, ["stage2.conv"], SEED).stage2.conv.weight, alone.stage2.conv.weight
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_shared_weights_are_shuffled_once():
    shared = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    shared[2].weight = shared[0].weight
    changed = randomise(shared, ["0", "2"], SEED)
    assert changed[0].weight is changed[2].weight
    assert torch.equal(changed[0].weight, randomise(shared, ["0"], SEED)[0].weight)


def test_scores_are_those_of_the_definition(net, x):
    names = [[f"stage{k}.conv", f"stage{k}.norm"] for k in (1, 2, 3)] + [["head"]]
    cumulative = [*accumulate(names[::-1])]

    def maps(model):
        images = x.clone().requires_grad_()
        logits = model(images).gather(1, Y[:, None]).sum()
        (slopes,) = torch.autograd.grad(logits, images)
        return (images * slopes).detach()[:, 0].float().double().numpy()

    def mean_correlation(parts):
        changed = [maps(randomise(net, part, SEED)) for part in parts]
        return [
            np.mean([abs(spearmanr(a.ravel(), b[i].ravel()).statistic) for b in changed])
            for i, a in enumerate(maps(net))
        ]

    def rise(index):
        everything = randomise(net, [name for part in names for name in part], SEED)
        before, after = (
            entropy(np.histogram(maps(model)[index], bins=100)[0]) for model in (net, everything)
        )
        return (after - before) / before

    results = scored(gradient, net, x)
    top_down, independent = mean_correlation(cumulative), mean_correlation(names)
    assert results["TopDownMPRT"].values == pytest.approx(top_down, abs=1e-6)
    assert results["IndependentMPRT"].values == pytest.approx(independent, abs=1e-6)
    assert results["EfficientMPRT"].values == pytest.approx([rise(i) for i in range(6)], abs=1e-6)
    assert np.std(top_down) > 0.01
    assert top_down != pytest.approx(independent, abs=1e-3)


def test_methods_that_ignore_the_network_score_1_and_have_no_more_entropy(net, x):
    for name, control in controls().items():
        results = scored(lambda model, example, control=control: control, net, x)
        for metric in SIMILARITIES:
            assert results[metric].values == pytest.approx(np.ones(6), abs=1e-9), (name, metric)
        assert results["EfficientMPRT"].values.tolist() == [0] * 6


def test_independent_noise_scores_what_is_stated(net):
    count = examples(60, 300)
    x = torch.rand(count, 1, 16, 16, dtype=torch.float64)
    y = torch.zeros(count, dtype=torch.long)
    results = score(ALL, net, of_weights(net, x), x, y, remake=of_weights)
    magnitude = math.sqrt(2 / math.pi / (16 * 16 - 1))  # of a rank correlation without a relation
    assert results["TopDownMPRT"].mean == pytest.approx(magnitude, rel=0.1)
    assert results["IndependentMPRT"].mean == pytest.approx(magnitude, rel=0.1)
    chance = 0.06**2 / (2 / 12 + 0.06**2)  # of structural similarity, from its constant
    assert results["TopDownMPRTSSIM"].mean == pytest.approx(chance, abs=0.01)
    assert results["EfficientMPRT"].mean == pytest.approx(0, abs=0.01)


def test_constant_maps_are_like_each_other_only(net, x):
    def nothing(model, example):
        return lambda x, target: torch.zeros_like(x[:, :1])

    results = scored(nothing, net, x)
    for metric in SIMILARITIES:
        assert results[metric].values.tolist() == [1] * 6, metric
    assert results["EfficientMPRT"].values.tolist() == [0] * 6

    def nothing_at_first(model, example):
        return nothing(model, example) if model is net else RandomMap()

    results = scored(nothing_at_first, net, x)
    assert results["TopDownMPRT"].values.tolist() == [0] * 6
    assert results["EfficientMPRT"].remarks == {"map is constant": 6}
    assert results["EfficientMPRT"].n == 0

    def nothing_at_last(model, example):
        return RandomMap() if model is net else nothing(model, example)

    assert scored(nothing_at_last, net, x)["EfficientMPRT"].values.tolist() == [-1] * 6


def test_failures_for_randomised_networks_are_reasons(net, x):
    def failing(model, example):
        if model is not net:
            raise ValueError("not this\n network")
        return RandomMap()

    for result in scored(failing, net, x).values():
        assert result.remarks == {"ValueError: not this network": 6}

    def not_finite(model, example):
        def explain(x, target):
            maps = RandomMap()(x, target)
            if model is not net and len(x) == 6:
                maps[2] = math.nan
            return maps

        return explain

    for result in scored(not_finite, net, x).values():
        assert result.reasons[2] == "map of a randomised network is not finite"
        assert np.isnan(result.values).tolist() == [False] * 2 + [True] + [False] * 3


def test_what_is_missing_is_named(net, x):
    for result in score(ALL, net, RandomMap(), x, Y).values():
        assert "give score(..., remake=...)" in next(iter(result.remarks))
    bare = nn.Sequential(nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d((3, 1)), nn.Flatten()).double()
    for result in scored(lambda model, example: RandomMap(), bare.eval(), x).values():
        assert "Sequential has no weights to randomise" in next(iter(result.remarks))


def test_scores_do_not_depend_on_the_batch(net, x):
    whole = scored(gradient, net, x)
    alone = scored(gradient, net, x, batch_size=1)
    other = scored(gradient, net, x, seed=SEED + 1)
    for name in ALL:
        assert alone[name].values == pytest.approx(whole[name].values, abs=1e-9), name
        assert other[name].values != pytest.approx(whole[name].values, abs=1e-3), name


def test_entropy_is_that_of_numpys_histogram():
    maps = torch.randn(5, 1, 9, 11).double()
    expected = [entropy(np.histogram(each, bins=100)[0]) for each in maps.numpy()]
    assert histogram_entropy(maps).numpy() == pytest.approx(expected)
    assert histogram_entropy(torch.ones(1, 1, 3, 3)).item() == 0


def test_known_failures_come_out():
    """Guided backpropagation hardly depends on the weights, as Adebayo et al. 2018 found."""
    model = dmn.load("scenes_resnet18").model
    data = Scenes()
    data.setup("test")
    x, y, _ = data.test.__getitems__(list(range(8)))
    means = {}
    for name in ("GuidedBackprop", "ExcitationBackprop", "Gradient"):
        method = find_method(name)

        def remake(model, example, method=method):
            return method.factory(model)

        result = score("TopDownMPRT", model, remake(model, x[:1]), x, y, remake=remake)
        means[name] = result["TopDownMPRT"].mean
    assert min(means["GuidedBackprop"], means["ExcitationBackprop"]) > 0.5
    assert means["Gradient"] < 0.2
