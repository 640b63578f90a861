"""On a shipped network and real scenes, maps and scores behave as they must."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from dmn.compare.images import collect
from dmn.compare.plan import entries
from dmn.data import Scenes
from dmn.evaluate import METRICS, score
from dmn.explain import list_methods
from dmn.hub import load

CONTROLS = {spec.name: spec.factory for spec in list_methods("control")}
ON_RESNETS = [m.name for m in list_methods("split", "post-hoc") if not m.needs_attention]
LAYERS = {"GradCAM": "layer3", "GradCAM++": "layer3", "LayerCAM": "layer3", "SplitCAM": "layer3"}
LOCALISATION = [
    name for name, spec in METRICS.items() if spec.needs_mask and not spec.benchmark
]  # on any images


@pytest.fixture(scope="module")
def images():
    data = Scenes()
    data.setup("test")
    batch = data.test.__getitems__(list(range(16)))
    return collect([batch], {"ResNet": load("scenes_resnet18")}, 8)


@pytest.fixture(scope="module")
def network():
    return load("scenes_resnet18")


@pytest.fixture(scope="module")
def scrambled(network):
    """Shuffle the weights of every layer, which keeps their distribution."""
    model = deepcopy(network.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return replace(network, model=model)


def made(network, method, example):
    options = {"layer": LAYERS[method]} if method in LAYERS else {}
    (entry,) = (
        each
        for each in entries({"ResNet": {method: options}}, {"ResNet": network}, 1)
        if each.method == method
    )
    return entry.explainer(network, entry.settings[0], example)


@pytest.mark.parametrize("method", ON_RESNETS)
def test_other_weights_give_other_maps(method, network, scrambled, images):
    x, y = images.x[:2], images.y[:2]
    own, other = (
        normalize(made(each, method, x[:1])(x, y).flatten(1)) for each in (network, scrambled)
    )
    assert own.norm(dim=1).min() > 0.99  # none is blank
    assert (own * other).sum(dim=1).max() < 0.95


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_know_nothing_of_the_weights(control, network, scrambled, images):
    own, other = (
        entries({"ResNet": {}}, {"ResNet": each}, 1)[list(CONTROLS).index(control)].explainer(
            each, {}
        )(images.x, images.y)
        for each in (network, scrambled)
    )
    assert own.equal(other)


def test_the_mask_as_a_map_is_perfect_and_random_maps_are_near_worst(network, images):
    model = network.model
    explainers = {
        "mask": lambda x, target=None: images.masks[: len(x)],
        **{
            name: made(network, name, images.x[:1])
            for name in ("SplitLRP", "LRPEpsilonPlus", "Gradient")
        },
        **{name: CONTROLS[name]() for name in CONTROLS},
    }
    metrics = ["PixelFlipping", *LOCALISATION]
    means = {
        name: {
            metric: scores.mean
            for metric, scores in score(
                metrics, model, explainer, images.x, images.y, images.masks
            ).items()
        }
        for name, explainer in explainers.items()
    }
    for metric in metrics:
        sign = 1 if METRICS[metric].higher_is_better else -1
        order = sorted(means, key=lambda name: sign * means[name][metric])
        assert "Random" in order[:2], (metric, means)
    assert all(means["mask"][metric] == 1 for metric in LOCALISATION)
