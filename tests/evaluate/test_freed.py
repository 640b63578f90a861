"""What has been explained or scored is freed with the last reference to it."""

import gc
import weakref

import pytest
import torch
from small_pairs import tiny_pair
from torch import nn

from dmn.evaluate import METRICS, score
from dmn.evaluate.meter import ExplanationMeter
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.posthoc import split

EXPLAINERS = {
    "SplitCAM": lambda pair: SplitCAM(pair, layer="input"),
    "SplitGrad": lambda pair: SplitGrad(pair, layer="input"),
    "SplitLRP": lambda pair: SplitLRP(pair, layer="input", stream="g"),
}


def scored(pair, explainer, *data):
    results = score(METRICS, pair, explainer, *data, batch_size=3)
    assert any(scores.n for scores in results.values())


def metered(pair, explainer, *data):
    meter = ExplanationMeter(METRICS)
    meter.update(pair, explainer, *data)
    assert meter.compute()


def explained(pair, explainer, x, y, masks):
    assert len(explainer.streams(x, y).g) == len(x)
    explainer(x)


USES = {"is explained": explained, "is scored": scored, "is scored by a meter": metered}


def pair():
    made = tiny_pair()
    return made, made


def split_afterwards():
    made = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    )
    made = made.double().eval()
    return made, split(made, torch.rand(1, 1, 8, 8, dtype=torch.float64))


NETWORKS = {"trained as g - h": pair, "split afterwards": split_afterwards}


@pytest.mark.torture(
    "a network {network} {use} with {method}, and is dropped", "nothing keeps it alive"
)
@pytest.mark.parametrize("method", EXPLAINERS)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_freed(network, use, method, images):
    masks = torch.zeros_like(images)
    masks[..., 2:5, 2:5] = 1
    y = torch.arange(len(images)) % 3
    model, explained_pair = NETWORKS[network]()
    held = weakref.ref(model), weakref.ref(explained_pair)
    USES[use](model, EXPLAINERS[method](explained_pair), images, y, masks)
    del model, explained_pair
    gc.collect()
    assert [each() for each in held] == [None, None]
