import numpy as np
import pytest
import quantus

from dmn.evaluate import METRICS
from dmn.evaluate.metrics import FLIPPING_STEPS, _area_under_curve, features_in_step

CATEGORIES = {
    "PixelFlipping": "Faithfulness",
    "MaxSensitivity": "Robustness",
    "PointingGame": "Localisation",
    "RelevanceRankAccuracy": "Localisation",
    "Sparseness": "Complexity",
    "RandomLogit": "Randomisation",
}


@pytest.mark.parametrize("name", METRICS)
def test_the_table_agrees_with_quantus(name):
    spec, metric = METRICS[name], METRICS[name].build((1, 28, 28), 10)
    assert type(metric) is getattr(quantus, spec.name)
    assert spec.category == CATEGORIES[name].lower()
    assert metric.evaluation_category.value == CATEGORIES[name]
    assert spec.higher_is_better == (metric.score_direction.value == "higher")
    assert not metric.normalise


@pytest.mark.parametrize(
    "shape", [(1, 28, 28), (3, 28, 28), (3, 64, 64), (3, 224, 224), (1, 7, 11)]
)
def test_pixel_flipping_takes_a_bounded_number_of_steps(shape):
    step = features_in_step(shape)
    assert shape[1] * shape[2] % step == 0
    assert np.prod(shape) / step <= FLIPPING_STEPS


def test_area_under_a_curve():
    assert _area_under_curve([1.0, 1.0, 1.0]) == 1.0
    assert _area_under_curve([1.0, 0.0]) == 0.5
    assert _area_under_curve(np.linspace(0, 1, 33)) == pytest.approx(0.5)
