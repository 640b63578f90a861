from pathlib import Path

import numpy as np
import pytest
import quantus
import torch
from known_maps import Column, InkIn

from dmn.evaluate import METRICS, score
from dmn.evaluate.batch import ExplainedBatch
from dmn.evaluate.metrics import FLIPPING_STEPS, QuantusMetric, area_under_curve, features_in_step

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
    assert {spec.category for spec in METRICS.values()} == {
        category.value.lower() for category in quantus.helpers.enums.EvaluationCategory
    } - {"none"}


def test_the_document_has_every_metric_as_the_table_does():
    document = Path(__file__).parents[2] / "docs" / "evaluation.md"
    rows = [line.split(" | ") for line in document.read_text().splitlines() if " | " in line]
    said = {row[0].removeprefix("| "): row[1:3] for row in rows if row[0][2:] in METRICS}
    assert said == {
        name: [spec.category, "higher" if spec.higher_is_better else "lower"]
        for name, spec in METRICS.items()
    }


@pytest.mark.parametrize("name", METRICS)
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


def test_area_under_a_curve():
    assert area_under_curve(np.array([[1.0, 1.0, 1.0]])) == 1.0
    assert area_under_curve(np.array([[1.0, 0.0], [0.0, 0.0]])).tolist() == [0.5, 0.0]
    assert area_under_curve(np.linspace(0, 1, 33)[None]) == pytest.approx(0.5)
