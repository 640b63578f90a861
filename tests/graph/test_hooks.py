"""Hooks that change what a network computes are refused with what removes them; others are not."""

import pytest
import torch
from torch import nn
from torch.nn.utils import (
    parametrizations,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
    spectral_norm,
    weight_norm,
)

from dmn.canonize import canonize
from dmn.errors import UnsupportedError
from dmn.explain import SplitGrad
from dmn.split import split

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


def images():
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def network(first=None):
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Sequential(first or nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


def pruned(*methods):
    conv = nn.Conv2d(2, 4, 3)
    for method in methods:
        method(conv, "weight", 0.3)
    return conv


def pruned_bias():
    return prune.random_unstructured(nn.Conv2d(2, 4, 3), "bias", 1)


# How to make it, what the message says, and what follows that advice.
HOOKED = {
    "weight_norm": (
        lambda: weight_norm(nn.Conv2d(2, 4, 3)),
        r"weight_norm on 0\.0:.*remove_weight_norm\(module, 'weight'\)",
        remove_weight_norm,
    ),
    "spectral_norm": (
        lambda: spectral_norm(nn.Conv2d(2, 4, 3)).eval(),
        r"spectral_norm on 0\.0:.*remove_spectral_norm\(module, 'weight'\)",
        remove_spectral_norm,
    ),
    "pruning": (
        lambda: pruned(prune.l1_unstructured),
        r"pruning on 0\.0:.*prune\.remove\(module, 'weight'\)",
        lambda module: prune.remove(module, "weight"),
    ),
    "pruned twice": (
        lambda: pruned(prune.l1_unstructured, prune.random_unstructured),
        r"pruning on 0\.0:.*prune\.remove\(module, 'weight'\)",
        lambda module: prune.remove(module, "weight"),
    ),
    "pruned bias": (
        pruned_bias,
        r"pruning on 0\.0:.*prune\.remove\(module, 'bias'\)",
        lambda module: prune.remove(module, "bias"),
    ),
    "lazy": (
        lambda: nn.LazyConv2d(4, 3),
        r"lazy module on 0\.0:.*run the model on a batch",
        lambda module: module(images()),
    ),
}


@pytest.mark.parametrize("name", HOOKED)
def test_a_refusal_says_what_removes_the_hook_and_is_right(name):
    make, message, remedy = HOOKED[name]
    model, x = network(make()), images()
    for transform in (split, canonize):
        with pytest.raises(UnsupportedError, match=message) as refused:
            transform(model, x)
        assert len(refused.value.lines) == 1
    remedy(model[0][0])
    assert torch.equal(split(model, x)(x), model(x))


def log_shape(module, *_):
    module.seen = True


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_of_ones_own_is_named(register):
    model, x = network(), images()
    handle = getattr(model[0], register)(log_shape)
    with pytest.raises(UnsupportedError, match=r"\(log_shape\) on 0: .*handle\.remove\(\)"):
        split(model, x)
    handle.remove()
    assert torch.equal(split(model, x)(x), model(x))


def test_all_kinds_are_listed_with_all_their_places():
    model = nn.Sequential(
        *(pruned(prune.l1_unstructured), pruned(prune.l1_unstructured), nn.LazyConv2d(4, 3)),
        weight_norm(nn.Conv2d(4, 4, 1)),
    )
    model[1].register_forward_hook(log_shape)
    with pytest.raises(UnsupportedError) as refused:
        split(model)
    assert len(refused.value.lines) == 4
    for part in ("pruning on 0, 1:", "(log_shape) on 1:", "lazy module on 2:", "weight_norm on 3:"):
        assert part in str(refused.value)


def test_accelerates_forward_is_named():
    model = network()
    model[0]._hf_hook, model[0].forward = object(), lambda x: x
    with pytest.raises(UnsupportedError, match=r"accelerate.*remove_hook_from_module"):
        split(model)


@pytest.mark.parametrize("place", ["", "0", "0.0", "0.1", "2"])
def test_hooks_of_the_backward_pass_are_no_part_of_the_function(place):
    model, x = network(), images()
    expected = SplitGrad(split(model, x), "0.0")(x, 1)
    module = model.get_submodule(place)
    module.register_full_backward_pre_hook(lambda module, grads: (grads[0] * 0,))
    module.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 0,))
    ours = split(model, x)
    assert torch.equal(ours(x), model(x))
    assert torch.equal(SplitGrad(ours, "0.0")(x, 1), expected)
    assert len(module._backward_hooks) == 1  # the original keeps them


@pytest.mark.parametrize(
    "norm",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
)
def test_parametrizations_and_lazy_modules_that_ran_work(norm):
    x = images()
    model = nn.Sequential(
        *(norm(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.LazyConv2d(4, 2), nn.Flatten()),
        *(nn.LazyLinear(5), norm(nn.Linear(5, 3))),
    ).eval()
    model(x)
    assert torch.equal(split(model, x)(x), model(x))
    assert torch.allclose(canonize(model, x)(x), model(x), atol=1e-5)
