"""Every method, on every kind of network, keeps the promises of an explainer."""

import builtins
import gc
import weakref

import numpy as np
import pytest
import torch
from rival_networks import COPIES, NETWORKS, POST_HOC, RELEVANCE, options
from torch import nn

from dmn.errors import MissingPackageError, TargetError
from dmn.explain import Explainer

EVERY = pytest.mark.parametrize("method", POST_HOC)


def state(model):
    return (
        {name: (v.data_ptr(), v.clone(), v.grad) for name, v in model.named_parameters()},
        {name: v.requires_grad for name, v in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        [(list(m._forward_hooks), list(m._backward_hooks)) for m in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
    )


def assert_same(before, after):
    assert before[1:] == after[1:]
    for name, (pointer, value, grad) in before[0].items():
        assert after[0][name][0] == pointer
        assert torch.equal(after[0][name][1], value)
        assert after[0][name][2] is grad is None


@EVERY
@pytest.mark.parametrize("network", NETWORKS)
def test_promises_of_an_explainer(method, network, images):
    model = NETWORKS[network]()
    target = model(images).argmax(dim=1)
    layer = next(model.children())
    if network == "vgg":
        model.requires_grad_(False)
    model.train(network == "resnet")
    layer.train()
    before, kept = state(model), images.clone()
    random = torch.get_rng_state(), np.random.get_state()[1].copy()
    explainer = POST_HOC[method](model, **options(method, network))
    assert isinstance(explainer, Explainer)
    with torch.inference_mode():
        maps = explainer(images.clone(), target.clone())
    assert maps.shape == (5, 1, 8, 8)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert maps.abs().amax((1, 2, 3)).gt(0).sum() >= 3
    assert not maps.requires_grad
    scale = maps.abs().max()
    alone = [explainer(image[None], int(t)) for image, t in zip(images, target, strict=True)]
    assert torch.allclose(torch.cat(alone), maps, rtol=1e-5, atol=1e-6 * scale)
    with torch.no_grad():
        assert torch.equal(explainer(images), maps)
    assert torch.equal(images, kept)
    assert_same(before, state(model))
    assert torch.equal(random[0], torch.get_rng_state())
    assert np.array_equal(random[1], np.random.get_state()[1])


@pytest.mark.torture("a network is explained by {method}, and dropped", "nothing keeps it alive")
@EVERY
def test_what_was_explained_is_freed(method, images):
    model = NETWORKS["resnet"]()
    held = weakref.ref(model)
    explainer = POST_HOC[method](model, **options(method, "resnet"))
    explainer(images, 1)
    del explainer, model
    gc.collect()
    assert held() is None


@EVERY
def test_absolute_and_contrast(method, images):
    """What is added to every logit does not speak for one class; of LRP it does, a little."""
    chosen = {"layer": "0"} if "CAM" in method else options(method, "vgg")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)).double()
    maps = POST_HOC[method](model, **chosen)(images, 1)
    size = POST_HOC[method](model, **chosen, absolute=True)(images, 1)
    assert torch.equal(size, maps.abs())
    contrast = POST_HOC[method](model, **chosen, contrast=True)
    if method.startswith(RELEVANCE):
        assert (contrast(images, 1).abs().sum((1, 2, 3)) <= 2 + 1e-6).all()
        return
    before = contrast(images, 1)
    assert not torch.allclose(before, maps)
    with torch.no_grad():
        model[2].weight += torch.randn(144, dtype=torch.float64)
    rival = POST_HOC[method](model, **chosen, contrast=True)
    assert torch.allclose(rival(images, 1), before, rtol=1e-4, atol=1e-5 * before.abs().max())


@pytest.mark.torture("{method} is asked for no class of the network", "refused; nothing is left")
@EVERY
def test_what_is_no_class_is_refused_and_leaves_no_trace(method, images, happened):
    model = NETWORKS["vgg"]()
    explainer = POST_HOC[method](model, **options(method, "vgg"))
    wanted, before = explainer(images, [1, 2, 0, 1, 2]), state(model)
    classes = model(images).shape[1]
    wrong = {
        classes: f"no class {classes}; there are 0 to {classes - 1}",
        -1: "target -1 is negative",
        1.0: r"target is 1\.0; give the index",
        (0, 1): r"shape \(2,\), of 5 images",
    }
    for target, told in wrong.items():
        with pytest.raises(TargetError, match=told) as caught:
            explainer(images, target)
        happened(str(caught.value))
    assert_same(before, state(model))
    assert torch.equal(explainer(images, torch.tensor([1, 2, 0, 1, 2])), wanted)


@EVERY
def test_one_logit_is_explained_and_has_none_to_be_contrasted_with(method, images):
    chosen = {"layer": "0"} if "CAM" in method else options(method, "vgg")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).double()
    maps = POST_HOC[method](model, **chosen)(images)
    assert maps.abs().max() > 0
    assert torch.equal(maps, POST_HOC[method](model, **chosen)(images, 0))
    with pytest.raises(TargetError, match="contrast needs two classes, and the network has one"):
        POST_HOC[method](model, **chosen, contrast=True)(images)


@EVERY
def test_only_copies_stay_when_the_model_is_trained_on(method, images):
    model = NETWORKS["vgg"]()
    target = model(images).argmax(dim=1)
    explainer = POST_HOC[method](model, **options(method, "vgg"))
    before = explainer(images, target)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert torch.equal(explainer(images, target), before) == method.startswith(COPIES)


@pytest.mark.parametrize("method", [name for name in POST_HOC if name != "AttnLRP"])
def test_a_missing_library_says_how_to_install_it(method, monkeypatch):
    model, imported = NETWORKS["vgg"](), builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] in ("captum", "torchcam", "zennit"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'dmn\[compare\]'") as caught:
        POST_HOC[method](model, **options(method, "vgg"))
    assert isinstance(caught.value, ImportError)


def test_repr_names_what_was_chosen():
    model = NETWORKS["vgg"]()
    assert repr(POST_HOC["IntegratedGradients"](model)) == "IntegratedGradients()"
    assert repr(POST_HOC["SmoothGrad"](model, 7, seed=3)) == "SmoothGrad(samples=7, seed=3)"
    assert repr(POST_HOC["GradCAM++"](model, "4")) == "GradCAMpp(layer='4')"
