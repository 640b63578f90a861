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
from dmn.split import split

METHODS = (SplitCAM, SplitGrad, SplitLRP)


def explained(model, pair, x, y, masks):
    for method in METHODS:
        assert len(method(pair, layer="input").streams(x, y).g) == len(x)


def scored(model, pair, *data):
    results = score(METRICS, model, SplitCAM(pair, layer="input"), *data, batch_size=3)
    assert any(scores.n for scores in results.values())


def metered(model, pair, *data):
    meter = ExplanationMeter(["Sparseness", "RandomLogit"])
    meter.update(model, SplitCAM(pair, layer="input"), *data)
    assert meter.compute()


USES = {
    "explained by each of its own methods": explained,
    "scored by all metrics": scored,
    "scored by a meter": metered,
}


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


@pytest.mark.torture("a network {network} is {use}, and dropped", "nothing keeps it alive")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_freed(network, use, images):
    masks = torch.zeros_like(images)
    masks[..., 2:5, 2:5] = 1
    y = torch.arange(len(images)) % 3
    model, its_pair = NETWORKS[network]()
    held = weakref.ref(model), weakref.ref(its_pair)
    USES[use](model, its_pair, images, y, masks)
    del model, its_pair
    gc.collect()
    assert [each() for each in held] == [None, None]
