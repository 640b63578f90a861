"""Contrasts of the baselines against sums of the maps of classes, which LRP is linear in."""

import pytest
import torch
from rival_networks import CLASSES, NETWORKS, POST_HOC, RELEVANCE, options
from torch import nn

from dmn.errors import OptionError
from dmn.explain.read import eval_mode_with_grad

TARGET = torch.tensor([0, 1, 2, 1, 0])
STARTS = ("mean", "clrp", "sglrp")
LRP = [name for name in POST_HOC if name.startswith(RELEVANCE)]
OTHERS = [name for name in POST_HOC if name not in LRP]
ONE = "ExcitationBackprop"  # starts from 1, where the others start from the logit


def relevance(explainer, x, target):
    """Return a map (B, 1, H, W) in float64, before it is rounded to float32."""
    with eval_mode_with_grad(explainer.network):
        target = torch.as_tensor(target).expand(len(x))
        maps = explainer.attribute(x.clone().requires_grad_(), target)
    return maps.detach().sum(dim=1, keepdim=True)


def expected_start(logits, contrast, ones):
    """Return the relevance of each class, (B, K), entry by entry."""
    start = torch.zeros_like(logits)
    for row, (target, f, y) in enumerate(zip(TARGET, logits, logits.softmax(1), strict=True)):
        f = torch.ones_like(f) if ones else f
        for k in range(CLASSES):
            own = k == target
            start[row, k] = {
                "mean": (float(own) - 1 / CLASSES) * f[k],
                "clrp": f[target] * (1.0 if own else -1 / (CLASSES - 1)),
                "sglrp": y[target] * (float(own) - y[k]),
            }[contrast]
    return start


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("contrast", STARTS)
@pytest.mark.parametrize("method", LRP)
def test_a_contrast_is_a_sum_of_the_classes_maps(method, contrast, network, images):
    model = NETWORKS[network]()
    logits = model(images).detach()
    start = expected_start(logits, contrast, method == ONE)
    plain = POST_HOC[method](model)
    maps = [relevance(plain, images, k) for k in range(CLASSES)]
    shares = start if method == ONE else start / logits
    parts = [w.view(-1, 1, 1, 1) * m for w, m in zip(shares.T, maps, strict=True)]
    ours = relevance(POST_HOC[method](model, contrast=contrast), images, TARGET)
    scale = sum(part.abs() for part in parts).amax((1, 2, 3), keepdim=True)
    assert ours.any()
    assert ((ours - sum(parts)).abs() <= 1e-8 * scale).all()


@pytest.mark.parametrize("method", LRP)
def test_the_mean_is_the_class_less_the_mean_of_all(method, images):
    model = NETWORKS["vgg"]()
    plain = POST_HOC[method](model)
    mean = sum(relevance(plain, images, k) for k in range(CLASSES)) / CLASSES
    expected = relevance(plain, images, TARGET) - mean
    ours = relevance(POST_HOC[method](model, contrast="mean"), images, TARGET)
    assert torch.allclose(ours, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("contrast", STARTS)
@pytest.mark.parametrize("method", ["LRPEpsilon", "LRPEpsilonPlus", "LRPGamma"])
def test_without_biases_what_a_pass_starts_with_is_conserved(method, contrast, images):
    torch.manual_seed(4)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten()),
        nn.Linear(80, CLASSES, bias=False),
    ).double()
    total = relevance(POST_HOC[method](model, contrast=contrast), images, TARGET)
    expected = expected_start(model(images).detach(), contrast, ones=False).sum(dim=1)
    size = total.abs().sum((1, 2, 3))
    assert ((total.sum((1, 2, 3)) - expected).abs() <= 1e-3 * size).all()


@pytest.mark.parametrize("method", OTHERS)
def test_what_propagates_no_relevance_has_one_contrast(method, images):
    model = NETWORKS["vgg"]()
    chosen = options(method, "vgg")
    plain, true, mean = (
        POST_HOC[method](model, **chosen, contrast=contrast)(images, TARGET)
        for contrast in (False, True, "mean")
    )
    assert torch.equal(true, mean)
    assert not torch.equal(true, plain)
    for start in ("clrp", "sglrp"):
        with pytest.raises(OptionError, match=f"takes no contrast '{start}', .* the LRP methods"):
            POST_HOC[method](model, **chosen, contrast=start)
    with pytest.raises(OptionError, match=r"is 'CLRP'; give false, true or mean$"):
        POST_HOC[method](model, **chosen, contrast="CLRP")


@pytest.mark.parametrize("method", LRP)
def test_what_is_no_contrast_is_refused_when_the_method_is_made(method):
    for wrong in ("sg-lrp", 0.5, None, ["mean"]):
        with pytest.raises(OptionError, match=f"contrast of {method} is .*true, mean, clrp or sg"):
            POST_HOC[method](NETWORKS["vgg"](), contrast=wrong)
