"""SplitLRP and SplitCAM stay as good as they were where the right answer is known."""

import pytest

from dmn.evaluate import METRICS, score
from dmn.explain import SplitCAM, SplitLRP
from dmn.explain.layers import last_stage
from dmn.split import split
from dmn.truth import BENCHMARKS

IMAGES, MARGIN = 32, 0.05
MEASURED = {  # docs/research/results/truth.md, 64 images
    "PositivePrecision": {SplitLRP: 1.0, SplitCAM: 0.438},
    "NegativePrecision": {SplitLRP: 1.0, SplitCAM: 0.418},
    "LinearPattern": {SplitLRP: 0.594, SplitCAM: 0.657},
    "RigidPattern": {SplitLRP: 0.637, SplitCAM: 0.498},
    "TriggerPrecision": {SplitLRP: 0.860, SplitCAM: 0.173},
    "TriggerMass": {SplitLRP: 0.735, SplitCAM: 0.098},
}


@pytest.mark.slow
@pytest.mark.parametrize("metric", MEASURED)
def test_split_explanations_get_no_worse_than_a_margin(metric):
    benchmark = BENCHMARKS[METRICS[metric].benchmark](IMAGES, 0)
    model, (x, y, masks) = benchmark.model, benchmark.images
    pair = split(model, x[:1])
    explainers = {SplitLRP: SplitLRP(pair), SplitCAM: SplitCAM(pair, last_stage(model, x[:1]))}
    for method, measured in MEASURED[metric].items():
        mean = score(metric, model, explainers[method], x, y, masks)[metric].mean
        assert mean > measured - MARGIN, (method.__name__, mean)
