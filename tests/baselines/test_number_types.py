"""Networks of any floating type are explained by every method, in maps of one type."""

import copy

import pytest
import torch
import torch.nn.functional as F
from rival_networks import NETWORKS, options

from dmn.explain import list_methods
from dmn.split import as_pair

METHODS = {spec.name: spec for spec in list_methods() if not spec.needs_attention}
EXPLAINING = [name for name, spec in METHODS.items() if spec.kind != "control"]
LEAST_COSINE = {  # on average, as rounding may change which value of a window is largest
    torch.float32: 0.999,
    torch.float16: 0.99,
    torch.bfloat16: 0.9,
}
RANDOM = {"SmoothGrad", "GradientSHAP", "Random"}  # seeded by the pixels, which rounding changes
LOSING = {"Occlusion", "FeatureAblation"}  # differences of logits, of which 8 bits leave little
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGET = [0, 1, 2, 0, 1]


@pytest.fixture(scope="module", params=["vgg", "difference"])
def network(request):
    torch.manual_seed(0)
    return request.param, NETWORKS[request.param]()


def explain(method, network, dtype, images):
    """Explain by a copy of the network in another type."""
    spec, (name, original) = METHODS[method], network
    model = copy.deepcopy(original).to(dtype)
    if spec.kind == "control":
        return spec.factory()(images.to(dtype), TARGET)
    if spec.kind == "split":
        return spec.factory(as_pair(model), stream="g", part="p")(images.to(dtype), TARGET)
    return spec.factory(model, **options(method, name))(images.to(dtype), TARGET)


@pytest.mark.parametrize("dtype", LEAST_COSINE, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_the_one_of_float64_but_for_rounding(method, dtype, network):
    maps = explain(method, network, dtype, IMAGES)
    exact = explain(method, network, torch.float64, IMAGES)
    assert maps.dtype == exact.dtype == torch.float32
    assert maps.isfinite().all()
    if method in RANDOM or (method in LOSING and dtype == torch.bfloat16):
        return
    seen = exact.flatten(1).any(dim=1)  # a GradCAM may be 0, as it is nowhere negative
    assert seen.any()
    cosine = F.cosine_similarity(maps[seen].flatten(1), exact[seen].flatten(1))
    assert cosine.mean() > LEAST_COSINE[dtype]


@pytest.mark.parametrize("method", EXPLAINING)
def test_what_is_zero_everywhere_divides_nothing(method, network):
    """In float16 the usual 1e-10 is 0, and what 1e-6 divides is infinite."""
    assert explain(method, network, torch.float16, torch.zeros(5, 1, 8, 8)).isfinite().all()
