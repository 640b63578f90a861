"""A certificate says what holds, claims no more, and notices what is broken."""

import gc
import json
from itertools import combinations

import pytest
import torch
from literal_split import Literal
from torch import nn

from dmn.split import Certificate, split


def network(activation=nn.ReLU, bias=True):
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d(4), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 2), activation(), nn.Flatten(), nn.Linear(16, 3)),
    ).eval()


def images():
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("pool", "theta", "activation", "monotone", "convex"),
    [
        ("convex", 1.0, nn.ReLU, True, True),
        ("convex", 1.0, nn.ReLU6, True, False),
        ("convex", 1.0, nn.GELU, True, False),
        ("convex", 1.0, nn.Softplus, True, True),
        ("convex", 1.0, lambda: nn.LeakyReLU(1.5), True, False),
        ("convex", 0.5, nn.ReLU, False, False),
        ("convex", 0.0, nn.ReLU, False, False),
        ("winner", 1.0, nn.ReLU, False, False),
        ("winner", 0.0, nn.ReLU, False, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_holds_is_claimed_and_nothing_else(pool, theta, activation, monotone, convex, dtype):
    model, x = network(activation).to(dtype), images().to(dtype)
    ours = split(model, x, pool=pool, theta=theta)
    certificate = ours.certificate(x)
    assert ours.claims(x) == (monotone, convex)
    assert certificate.monotone == ("holds in 4 samples" if monotone else "not claimed")
    assert certificate.convex == ("holds in 4 samples" if convex else "not claimed")
    assert certificate.prediction == 0
    assert certificate.gradient == 0
    assert certificate.least_weight >= 0
    assert (certificate.pool, certificate.theta) == (pool, theta)
    assert certificate.images == (3, 2, 8, 8)
    assert certificate.network == "Sequential"
    assert certificate.dtype == str(dtype).split(".")[1]
    assert set(certificate.cosines) == {"0", "0.4"}
    assert all(-1.0001 <= cosine <= 1.0001 for cosine in certificate.cosines.values())
    assert ours.certified is certificate


def test_magnitudes_are_the_streams_own():
    model, x = network().double(), images().double()
    ours = split(model, x, pool="convex", theta=1.0)
    sizes = ours.certificate(x).magnitudes
    assert 2 ** sizes["input"] == pytest.approx(float(x.abs().max()))
    total = ours.g(x) + ours.h(x)
    assert 2 ** sizes["7"] == pytest.approx(float(total.max()))


def test_a_network_without_max_pooling_is_monotone_in_either_form():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    certificate = split(model, theta=1.0).certificate(images())
    assert certificate.monotone.startswith("holds")
    assert certificate.convex.startswith("holds")


@pytest.mark.parametrize("key", ["0.weight", "1.running_mean", "4.bias", "7.weight"])
def test_a_changed_weight_shows(key):
    model, x = network(), images()
    ours = split(model, x)
    with torch.no_grad():
        ours.network.state_dict()[key].add_(0.5)
    certificate = ours.certificate(x)
    assert certificate.prediction > 0
    if key.endswith("weight"):
        assert certificate.gradient > 0
    assert "bit-equal" not in str(certificate).split("largest |f - original|")[1].split("\n")[0]


def test_a_broken_rule_shows():
    model, x = network(bias=False), images()
    ours = split(model, x, pool="convex", theta=1.0)
    rule = ours._rules["_7"]

    class Broken(type(rule)):
        def sums(self, *args):
            return args[2].abs()  # the least that u allows

    ours._rules["_7"] = Broken()
    certificate = ours.certificate(x)
    assert "FAILS" in certificate.monotone


def test_an_original_that_is_gone_is_not_compared():
    model, x = network(), images()
    ours = split(model, x)
    copy = network()
    copy.load_state_dict(model.state_dict())
    del model
    gc.collect()
    certificate = ours.certificate(x)
    assert certificate.prediction is None
    assert certificate.gradient == 0
    assert "not compared: the original is gone" in str(certificate)
    assert ours.certificate(x, copy).prediction == 0


def test_the_original_keeps_its_mode_and_gradients():
    model, x = network().train(), images()
    statistics = model[1].running_mean.clone()
    ours = split(model, x)
    assert ours.certificate(x).prediction == 0
    assert model.training
    assert torch.equal(model[1].running_mean, statistics)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_written_down_and_read_back():
    ours = split(network(), images())
    certificate = ours.certificate(images())
    text = certificate.to_json()
    assert json.loads(text)["pool"] == "winner"
    assert Certificate.from_json(text) == certificate


def of_classes(classes, activation=nn.ReLU):
    """A network of a number of classes, with weights and images that are drawn anew."""
    torch.manual_seed(classes)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), activation(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), activation()),
        *(nn.Flatten(), nn.Linear(16, classes)),
    ).eval()


@pytest.mark.parametrize("pool", ["winner", "convex"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
@pytest.mark.parametrize(
    ("classes", "ranks"), [(2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (9, [0, 1, 4, 8])]
)
def test_cosines_are_those_of_literal_maps_class_by_class(classes, ranks, activation, pool):
    model, x = of_classes(classes, activation).double(), images().double()
    literal = Literal(model, x, pool=pool)
    by_class = [literal.relevance(torch.full((len(x),), index), 1e-6) for index in range(classes)]
    order = model(x).sort(dim=1, descending=True).indices
    certificate = split(model, x, pool=pool, theta=1.0).certificate(x)
    by_layer = certificate.class_cosines["0"]
    assert list(by_layer) == ["input", "0", "1", "2", "4"]  # of 6 images
    for layer, cosine in by_layer.items():
        found = []
        for row, classes_of_image in enumerate(order[:, ranks].tolist()):
            maps = [
                torch.cat([part[row].flatten() for part in by_class[index][layer][:2]])
                for index in classes_of_image
            ]
            found += [abs(a @ b) / (a.norm() * b.norm()) for a, b in combinations(maps, 2)]
        assert cosine == pytest.approx(float(sum(found) / len(found)), rel=1e-6)


@pytest.mark.parametrize("pool", ["winner", "convex"])
@pytest.mark.parametrize("theta", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1.0, 1e18])  # squares of relevance overflow float32
def test_classes_that_share_nothing_have_cosine_0_and_those_that_share_all_have_1(
    pool, theta, scale
):
    def head(weight):
        linear = nn.Linear(3, 3, bias=False)
        linear.weight.data = weight * scale
        return linear

    def cosines(weight):
        torch.manual_seed(6)
        model = nn.Sequential(
            *(nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(weight)),
        ).eval()
        model[0].weight.data *= scale
        x = torch.randn(3, 3, 8, 8)
        return split(model, x, pool=pool, theta=theta).certificate(x).class_cosines

    apart, alike = cosines(torch.eye(3)), cosines(torch.tensor([[1.0, 2, 3]] * 3))
    for alpha in ("0", "auto"):
        assert set(apart[alpha].values()) == {0.0}
        assert list(alike[alpha].values()) == pytest.approx([1.0] * 5)
        assert len(apart[alpha]) == 5


def test_one_class_is_compared_with_none():
    model, x = of_classes(1), images()
    certificate = split(model, x).certificate(x)
    assert certificate.class_cosines == {}
    assert "of classes' relevance" not in str(certificate)
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_a_certificate_of_before_is_read_without_cosines_of_classes():
    certificate = split(network(), images()).certificate(images())
    fields = json.loads(certificate.to_json())
    assert fields.pop("class_cosines") == certificate.class_cosines != {}
    before = Certificate.from_json(json.dumps(fields))
    assert before.class_cosines == {}
    assert before.magnitudes == certificate.magnitudes
    assert "of classes' relevance" not in str(before)
    assert Certificate.from_json(certificate.to_json()) == certificate


@pytest.mark.parametrize("example", [None, images()], ids=["no example", "example"])
def test_classes_are_compared_at_images_only_and_layers_stay_as_they_were(example):
    ours = split(network(), example)
    layers = ours.layers
    cosines = ours.certificate(images()).class_cosines
    assert [list(by_layer) for by_layer in cosines.values()] == [["input", "0", "2", "3", "5"]] * 2
    assert ours.layers == layers


def test_the_table_shows_the_first_middle_and_last_layer():
    certificate = split(network(), images()).certificate(images())
    shown = [line for line in str(certificate).splitlines() if "of classes' relevance" in line]
    expected = []
    for alpha, cosines in certificate.class_cosines.items():
        first, _, middle, _, last = cosines
        expected += [
            [f"{layer},", "alpha", alpha, f"{cosines[layer]:.4f}"]
            for layer in (first, middle, last)
        ]
    assert [line.split(" at ")[1].split() for line in shown] == expected


def test_the_table_reads_as_one():
    x = images()
    model = network()
    table = str(split(model, x, pool="convex", theta=1.0).certificate(x))
    for row in (
        *("network", "form", "largest |f - original|", "largest |F - autograd's gradient|"),
        *("least effective weight", "g, h monotone in the streams", "g, h convex in the streams"),
        *("cosine of g's map and h's, alpha 0.4", "largest p + n at input"),
    ):
        assert row in table
    assert "pool convex, theta 1" in table
    assert table.count("0, bit-equal") == 2
    lines = table.splitlines()
    width = max(len(line.split("  ")[0]) for line in lines)
    assert all(line[width : width + 2] == "  " for line in lines)  # columns are aligned
