"""Contrasts of SplitLRP against sums of the maps of classes, which relevance is linear in."""

import pytest
import torch
from small_pairs import fronted_pair, randomise, tiny_pair
from torch import nn

from dmn.errors import OptionError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP, explain_together
from dmn.split import FrontAdapter, split

CLASSES = 3
TARGET = torch.tensor([2, 0, 1])
STARTS = ("mean", "clrp", "sglrp")


def network(seed=0, bias=True):
    torch.manual_seed(seed)
    body = nn.Sequential(
        *(nn.Conv2d(1, 5, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(5, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6) if bias else nn.Identity()),
        *(nn.LeakyReLU(0.1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES, bias=bias)),
    )
    return randomise(body).double().eval()


def images(seed=1, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, *shape, generator=generator, dtype=torch.float64)


PAIRS = {
    "split": lambda: (split(network(), images()), images()),
    "literal": lambda: (split(network(3), images(), theta=1.0), images()),
    "paired": lambda: (tiny_pair("paired", residual=True), images()),
    "plain": lambda: (tiny_pair("plain", seed=2), images()),
    "fronted": lambda: (FrontAdapter(fronted_pair()), images(shape=(3, 16, 16))),
}


def expected_weights(logits, contrast):
    """Return the weight of each class's own logit, (B, K), with zennit's stabiliser."""
    shares, weights = logits.softmax(dim=1), torch.zeros_like(logits)
    for row, (target, f, y) in enumerate(zip(TARGET, logits, shares, strict=True)):
        for k in range(CLASSES):
            own = k == target
            divisor = f[k] + (1e-6 if f[k] >= 0 else -1e-6)
            weights[row, k] = {
                "mean": float(own) - 1 / CLASSES,
                "clrp": f[target] * (1.0 if own else -1 / (CLASSES - 1)) / divisor,
                "sglrp": y[target] * (float(own) - y[k]) / divisor,
            }[contrast]
    return weights


@pytest.mark.parametrize("stream", ["g", "h", "g-h"])
@pytest.mark.parametrize("contrast", STARTS)
@pytest.mark.parametrize("kind", PAIRS)
def test_a_contrast_is_a_sum_of_the_classes_maps(kind, contrast, stream):
    """With the weights that f's logits give, in g and h too, whose own are others."""
    pair, x = PAIRS[kind]()
    with torch.no_grad():
        weights = expected_weights(pair(x), contrast)
    for layer in pair.layers[:2]:
        maps = [
            SplitLRP(pair, layer, stream, contrast=False)(x, k).double() for k in range(CLASSES)
        ]
        expected = sum(w.view(-1, 1, 1, 1) * m for w, m in zip(weights.T, maps, strict=True))
        ours = SplitLRP(pair, layer, stream, contrast=contrast)(x, TARGET).double()
        sizes = sum(
            w.abs().view(-1, 1, 1, 1) * m.abs() for w, m in zip(weights.T, maps, strict=True)
        )
        assert ours.any()
        assert ((ours - expected).abs() <= 1e-6 * sizes.amax((1, 2, 3), keepdim=True)).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("contrast", STARTS)
def test_without_biases_what_a_pass_starts_with_is_conserved(contrast, seed):
    net, x = network(seed, bias=False), images(seed)
    logits = net(x).detach()
    total = SplitLRP(split(net, x), epsilon=1e-14, contrast=contrast)(x, TARGET).double()
    expected = (expected_weights(logits, contrast) * logits).sum(dim=1)
    size = total.abs().sum((1, 2, 3))
    assert ((total.sum((1, 2, 3)) - expected).abs() <= 1e-5 * size).all()


@pytest.mark.parametrize("method", [SplitCAM, SplitGrad])
@pytest.mark.parametrize("kind", PAIRS)
def test_sensitivities_have_one_contrast_and_take_no_start_of_relevance(method, kind):
    pair, x = PAIRS[kind]()
    plain, true, mean = (
        method(pair, part="p", contrast=contrast)(x, TARGET) for contrast in (False, True, "mean")
    )
    assert torch.equal(true, mean)
    assert not torch.equal(true, plain)
    for start in ("clrp", "sglrp"):
        wanted = f"{method.__name__} takes no contrast '{start}', .* leave it to SplitLRP, the LRP"
        with pytest.raises(OptionError, match=wanted):
            method(pair, contrast=start)
    with pytest.raises(OptionError, match="is 'max'; give false, true or mean"):
        method(pair, contrast="max")


def test_explainers_of_all_contrasts_share_no_pass_that_differs():
    pair, x = PAIRS["split"]()
    explainers = [SplitLRP(pair, contrast=contrast) for contrast in (False, True, *STARTS)]
    alone = [explainer(x, TARGET) for explainer in explainers]
    for one, other in zip(explain_together(explainers, x, TARGET), alone, strict=True):
        assert torch.equal(one, other)
    assert len({tuple(maps.flatten().tolist()) for maps in alone}) == len(alone)
