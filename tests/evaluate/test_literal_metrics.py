"""The guarded metrics are those of their definitions."""

import math
from copy import deepcopy

import literal_metrics as literal
import numpy as np
import pytest
import torch
from torch import nn

from dmn.evaluate import METRICS, score
from dmn.evaluate.metrics import SENSITIVITY_SAMPLES, SUBSETS, features_in_step
from dmn.evaluate.truth import TRUTH

SHAPE = (3, 12, 10)
SEED = 4
NAMES = sorted(METRICS.keys() - {"GridPointingGame", *TRUTH})  # which have tests of their own
N = 4


def weigh(x, target):
    """Signed maps of images, that differ by class and are not linear."""
    phase = torch.as_tensor(target).to(x).view(-1, 1, 1, 1)
    return (7 * x + phase).sin().sum(1, keepdim=True).float() * 0.7


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(1)
    pixels = math.prod(SHAPE)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 9), nn.Tanh(), nn.Linear(9, 4)).eval()
    nn.init.normal_(model[1].weight, std=0.2)
    x = torch.rand(N, *SHAPE)
    y = torch.tensor([0, 1, 2, 3])
    masks = (torch.rand(N, 1, *SHAPE[1:]) > 0.6).float()
    masks[:2].flatten(1)[range(2), weigh(x, y)[:2].flatten(1).argmax(1)] = 1  # two hits
    results = score(NAMES, model, weigh, x, y, masks, SEED, batch_size=3)
    precise = deepcopy(model).double()

    def f(image):
        return precise(torch.from_numpy(image)[None].double())[0].detach().numpy()

    def explain(image, target):
        return weigh(torch.from_numpy(image)[None], target)[0, 0].double().numpy()

    def definitions(index):
        image, target = x[index].double().numpy(), int(y[index])
        a, mask = explain(image, target), masks[index, 0].numpy()
        noise = (explain, image, target, a, SENSITIVITY_SAMPLES, 0.2, SEED)
        other = literal.other_class(image, target, 4, SEED)
        return {
            "PixelFlipping": literal.pixel_flipping(f, image, target, a, features_in_step(SHAPE)),
            "SymmetricRelevanceGain": literal.symmetric_relevance_gain(
                f, image, target, a, features_in_step(SHAPE)
            ),
            "Selectivity": literal.selectivity(f, image, target, a, side=2),
            "FaithfulnessCorrelation": literal.faithfulness_correlation(
                f, image, target, a, SUBSETS, image.size // 100, SEED
            ),
            "MaxSensitivity": max(literal.sensitivities(*noise)),
            "AvgSensitivity": np.mean(literal.sensitivities(*noise)),
            "PointingGame": literal.pointing_game(a, mask),
            "RelevanceRankAccuracy": literal.rank_accuracy(a, mask),
            "RelevanceMassAccuracy": literal.mass_accuracy(a, mask),
            "AttributionLocalisation": literal.localisation(a, mask),
            "Sparseness": literal.gini(a),
            "Complexity": literal.entropy(a),
            "RandomLogit": literal.similarity(a, explain(image, other)),
            "Completeness": literal.completeness_gap(f, image, target, a),
        }

    return results, [definitions(index) for index in range(N)]


@pytest.mark.parametrize("name", NAMES)
def test_each_metric_is_its_definition(case, name):
    results, definitions = case
    expected = [definition[name] for definition in definitions]
    assert results[name].values == pytest.approx(expected, rel=2e-4, abs=1e-5)
    assert len(set(expected)) > 1
