import math
from pathlib import Path

import numpy as np
import pytest
import quantus
import torch
from known_maps import Column, InkIn
from torch import nn

from dmn.evaluate import METRICS, score
from dmn.evaluate.batch import ExplainedBatch
from dmn.evaluate.metrics import FLIPPING_STEPS, QuantusMetric, area_under_curve, features_in_step
from dmn.evaluate.truth import TRUTH

GUARDED = [name for name, spec in METRICS.items() if isinstance(spec.measure, QuantusMetric)]


@pytest.mark.parametrize("name", GUARDED)
def test_the_table_agrees_with_quantus(name):
    x = torch.rand(1, 1, 28, 28)
    batch = ExplainedBatch(InkIn(10).eval(), Column(), x, torch.zeros(1).long(), None, x, seed=0)
    spec, metric = METRICS[name], METRICS[name].measure.build(batch)
    assert type(metric) is getattr(quantus, spec.measure.name)
    assert spec.measure.name == name
    assert metric.evaluation_category.value.lower() == spec.category
    assert spec.higher_is_better == (metric.score_direction.value == "higher")
    assert not metric.normalise
    assert not metric.return_aggregate


def test_every_category_of_quantus_has_a_metric():
    assert {spec.category for name, spec in METRICS.items() if name not in TRUTH} == {
        category.value.lower() for category in quantus.helpers.enums.EvaluationCategory
    } - {"none"}


def test_the_document_has_every_metric_as_the_table_does():
    document = Path(__file__).parents[2] / "docs" / "concepts" / "evaluation.md"
    rows = [line.split(" | ") for line in document.read_text().splitlines() if " | " in line]
    said = {row[0].removeprefix("| "): row[1:3] for row in rows if row[0][2:] in METRICS}
    assert said == {
        name: [spec.category, "higher" if spec.higher_is_better else "lower"]
        for name, spec in METRICS.items()
    }


@pytest.mark.parametrize("name", sorted(METRICS.keys() - TRUTH.keys()))
def test_costs_are_those_of_the_table(name):
    """Forwards and maps, counted in areas of an image."""
    area, asked = 32 * 32, {"model": 0.0, "explainer": 0.0}

    class Counted(InkIn):
        def forward(self, x):
            asked["model"] += x.shape[-1] * x.shape[-2] * len(x) / area
            return 9 * super().forward(x)

    def explain(x, target):
        asked["explainer"] += x.shape[-1] * x.shape[-2] * len(x) / area
        return Column()(x, target)

    y = torch.arange(4)
    x = torch.rand(4, 1, 32, 32) * 0.1
    x[torch.arange(4), 0, :, y] += 1
    scores = score([name], Counted().eval(), explain, x, y, (x > 0.5).float())[name]
    assert scores.n == 4
    number_of_classes = int(name == "RandomLogit")  # asked of the model once a batch
    assert asked["model"] == 4 * METRICS[name].forwards + number_of_classes
    assert asked["explainer"] == 4 * (1 + METRICS[name].explanations)


@pytest.mark.parametrize(
    "shape", [(1, 28, 28), (3, 28, 28), (3, 64, 64), (3, 224, 224), (1, 7, 11)]
)
def test_pixel_flipping_takes_a_bounded_number_of_steps(shape):
    step = features_in_step(shape)
    assert shape[1] * shape[2] % step == 0
    assert np.prod(shape) / step <= FLIPPING_STEPS


def scores_of(metric, model, maps, x, y):
    """Score maps that are known."""
    target = torch.full((len(x),), y)
    (scores,) = score(metric, model.eval(), lambda *_: maps, x, target, batch_size=len(x)).values()
    return scores


def gain(model, maps, x, y=0):
    return scores_of("SymmetricRelevanceGain", model, maps, x, y)


def tied(maps):
    """Return maps of few distinct values, most of them zeros."""
    return maps.clamp(-0.5, 0.5).mul(4).trunc()


@pytest.fixture(params=[(1, 8, 8), (3, 12, 10)], ids=["grey", "colour"])
def linear(request):
    """A linear network of three classes, images and random maps of both signs."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(request.param), 3))
    x = torch.randn(5, *request.param)
    return model, x, torch.randn(5, 1, *request.param[1:])


@pytest.mark.parametrize("change", [lambda maps: maps, tied], ids=["distinct", "tied"])
def test_the_gain_is_pixel_flipping_in_both_orders(linear, change):
    model, x, maps = linear
    maps = change(maps)
    most, least = (
        scores_of("PixelFlipping", model, signed, x, 2).values for signed in (maps, -maps)
    )
    assert np.array_equal(gain(model, maps, x, 2).values, least - most)
    assert np.abs(least - most).min() > 0


@pytest.mark.parametrize("change", [lambda maps: maps, tied], ids=["distinct", "tied"])
def test_the_negated_map_has_the_negated_gain(linear, change):
    model, x, maps = linear
    maps = change(maps)
    values = gain(model, maps, x).values
    assert np.array_equal(gain(model, -maps, x).values, -values)
    assert np.array_equal(gain(model, 3 * maps, x).values, values)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_no_map_of_a_linear_network_gains_more_than_its_contributions(linear, scale):
    """One logit, whose sigmoid rises with it: each step leaves the most, or the least, there is."""
    _, x, maps = linear
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 1)).requires_grad_(False)
    model[1].weight.mul_(scale)
    contributions = (x * model[1].weight.view_as(x[:1])).sum(1, keepdim=True)
    best = gain(model, contributions, x).values
    assert (best > 0).all()
    assert (best < 1).all()
    noise = maps * contributions.std()
    others = [maps, contributions.abs(), contributions.clamp(min=0), contributions + noise]
    for other in others:
        assert (gain(model, other, x).values <= best + 1e-6).all()
    assert gain(model, -contributions, x).values == pytest.approx(-best)


def test_the_gain_nears_its_bounds_where_one_pixel_decides():
    class Corner(nn.Module):
        def forward(self, x):
            return 200 * (x[:, :, 0, 0] - 0.5)

    x = torch.ones(2, 1, 8, 8)
    maps = torch.rand(2, 1, 8, 8) * 0.5
    maps[:, :, 0, 0] = 1
    values = gain(Corner(), maps, x).values
    assert values == pytest.approx([1 - 0.5 / (FLIPPING_STEPS - 1)] * 2)  # the last step to 0
    assert gain(Corner(), 1.1 - maps, x).values == pytest.approx(-values)


def test_random_maps_gain_nothing_on_average(linear):
    model, x, _ = linear
    x = x[:1].repeat(200, 1, 1, 1)
    values = gain(model, torch.rand(len(x), 1, *x.shape[2:]), x).values
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert values.std() > 0


def test_a_constant_map_has_no_gain_and_is_left_out(linear):
    model, x, maps = linear
    maps[1], maps[2] = 0.0, 0.7
    result = gain(model, maps, x)
    assert result.reasons[1:3] == ["map is constant"] * 2
    assert np.isfinite(result.values).tolist() == [True, False, False, True, True]


def test_area_under_a_curve():
    assert area_under_curve(np.array([[1.0, 1.0, 1.0]])) == 1.0
    assert area_under_curve(np.array([[1.0, 0.0], [0.0, 0.0]])).tolist() == [0.5, 0.0]
    assert area_under_curve(np.linspace(0, 1, 33)[None]) == pytest.approx(0.5)
