"""V >= |W| of the sum stream: what it may change, what it must not, and that it can be learned."""

from copy import deepcopy

import effort
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from literal_split import Literal
from random_networks import networks
from small_pairs import randomise, tiny_pair
from torch import nn

from dmn.errors import OptionError, UnknownNameError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.hub import load, save_converted
from dmn.nn import BackwardConfig
from dmn.split import Example, learn_bounds, patch_logit_drops, split
from dmn.split.learned_bounds import OBJECTIVES

TARGET = torch.tensor([2, 0, 1, 1])


class Residual(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6) if bias else nn.Identity()
        self.inner = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=bias)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.fc = nn.Linear(6, 3, bias=bias)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.stem(x))))
        return self.fc(self.relu(x + self.inner(x)).mean((2, 3)))


def network(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    return randomise(Residual(bias)).to(dtype).eval()


def images(dtype=torch.float32):
    return torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def loosened(model, x, **options):
    """Split a network and draw slacks, which the network gets too, for the literal split."""
    ours = split(model, x, **options)
    ours.relax_bounds()
    for name, slack in ours.network.named_parameters():
        if name.endswith("_slack"):
            slack.data.uniform_(0, 2)
            owner, _, own = name.rpartition(".")
            model.get_submodule(owner).register_parameter(own, slack)
    return ours


def clue(objective, ours, x):
    square = torch.zeros(len(x), 1, *x.shape[-2:])
    square[..., 2:5, 2:5] = 1
    return {"mask": square, "faithfulness": patch_logit_drops(ours, x, TARGET, 2)}.get(objective)


def close(one, other, size=0.0):
    size = max(size, float(other.detach().abs().max()))
    assert float((one - other).detach().abs().max()) <= 1e-8 * size


@settings(
    max_examples=effort.examples(10, 20),
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(networks, st.sampled_from(["winner", "convex"]), st.sampled_from([1.0, 0.0]))
def test_evidence_and_signals_are_those_of_looser_literal_weights(model, pool, theta):
    x, target = images().double()[:2, :, :7, :7], TARGET[:2]
    original = deepcopy(model)
    ours = loosened(model, x, pool=pool, theta=theta)
    literal = Literal(model, x, pool=pool, alpha=0.2, theta=theta)
    assert torch.equal(ours(x), original(x))
    if theta == 1:
        close(ours.g(x), literal.p)
        close(ours.h(x), literal.n)
    expected = literal.sensitivities(target)
    read = ours.read(x, target, ours.layers, BackwardConfig(alpha=0.2))
    for layer in ours.layers:
        g, h = read[layer]["g"], read[layer]["h"]
        mine, theirs = (torch.stack(it) for it in ((*g[2:], *h[2:]), expected[layer]))
        close(mine, theirs)
    expected = literal.relevance(target, 1e-6)
    read = ours.read(x, target, ours.layers, BackwardConfig("relevance", alpha=0.0, head_alpha=0.0))
    for layer in ours.layers:
        sides = (read[layer][side] for side in ("g", "h"))
        mine = [part for it in sides for part in (it.p * it.delta_p, it.n * it.delta_n)]
        start = 1e-4 * float(literal.p.detach().max())  # layers beside the path hold next to none
        close(torch.stack(mine), torch.stack(expected[layer]), start)


@pytest.mark.parametrize("theta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("layer", ["input", "relu"])
def test_without_slack_maps_are_what_they_were(theta, layer):
    x = images()
    ours, untouched = (split(network(), x, theta=theta) for _ in range(2))
    ours.relax_bounds()
    assert ours.bound_slack
    assert not untouched.bound_slack
    for method in (SplitCAM, SplitGrad, SplitLRP):
        for options in ({"stream": "g"}, {"stream": "h"}, {"stream": "g-h", "contrast": True}):
            one, other = (method(it, layer, **options)(x, TARGET) for it in (ours, untouched))
            assert torch.equal(one, other)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("method", "options"),
    [(SplitLRP, {}), (SplitLRP, {"contrast": True}), (SplitCAM, {"alpha": 0.2})],
)
def test_learning_improves_maps_and_leaves_the_function_alone(objective, method, options):
    x, teacher = images(), network()
    ours = split(teacher, x)
    before = ours.read(x, TARGET, ["input"], streams=("g-h",))["input"]["g-h"].delta_p
    examples = [Example(x, TARGET, clue(objective, ours, x))]
    with torch.no_grad():  # as in a validation hook
        history = learn_bounds(method(ours, stream="g", **options), examples, objective, epochs=6)
    assert history[-1] > history[0] + 1e-3
    assert all((slack >= 0).all() and not slack.requires_grad for slack in ours.bound_slack)
    assert any((slack > 0).any() for slack in ours.bound_slack)
    assert torch.equal(ours(x), teacher(x))
    after = ours.read(x, TARGET, ["input"], streams=("g-h",))["input"]["g-h"].delta_p
    assert torch.equal(before, after)
    assert not method(ours, stream="g", **options)(x, TARGET).requires_grad


def test_the_certificate_sees_slacks():
    x, teacher = images(), network()
    ours = split(teacher, x, pool="convex", theta=1.0)
    learn_bounds(SplitLRP(ours, stream="g"), [Example(x, TARGET)], "sparseness", epochs=3)
    certificate = ours.certificate(x)
    assert certificate.prediction == certificate.gradient == 0
    assert certificate.least_weight >= 0
    assert certificate.monotone.startswith("holds")
    assert certificate.convex.startswith("holds")
    ours.bound_slack[0].data.fill_(-0.5)
    assert ours.certificate(x).least_weight < 0


@pytest.mark.parametrize(
    ("how", "theta"),
    [
        (BackwardConfig("relevance", alpha=0.0, head_alpha=0.0), 0.0),
        (BackwardConfig("relevance", alpha=0.0, head_alpha=0.0), 0.4),
        (BackwardConfig(alpha=0.2), 1.0),
        (BackwardConfig(alpha="balanced"), 0.0),
    ],
)
def test_the_derivative_by_slacks_is_that_of_finite_differences(how, theta):
    x = images(torch.float64)
    ours = loosened(network(dtype=torch.float64), x, theta=theta)
    weights = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(2)).double()

    def value():
        reading = ours.read(x, TARGET, ["input"], how, ("g",))["input"]["g"]
        return (weights * (reading.p * reading.delta_p + reading.n * reading.delta_n)).sum()

    for slack in ours.bound_slack:
        slack.requires_grad_()
    slopes = torch.autograd.grad(value(), ours.bound_slack, allow_unused=True)
    for slack, slope in zip(ours.bound_slack, slopes, strict=True):
        with torch.no_grad():
            ends = []
            for step in (1e-5, -2e-5):
                slack.add_(step)
                ends.append(value())
            slack.add_(1e-5)
        expected = 0.0 if slope is None else float(slope.sum())
        difference = float(ends[0] - ends[1]) / 2e-5
        assert difference == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_where_nothing_comes_in_the_derivative_is_finite():
    x = images()
    x[:, :, :5] = 0
    ours = split(network(bias=False), x)
    learn_bounds(SplitLRP(ours, stream="g"), [Example(x, TARGET)], "sparseness", epochs=2)
    assert all(slack.isfinite().all() for slack in ours.bound_slack)


def test_slacks_are_saved(tmp_path):
    x = images()
    ours = split(network(), x)
    explain = {"method": "SplitLRP", "stream": "g"}
    plain = ours.explain(x, TARGET, **explain)
    learn_bounds(SplitLRP(ours, stream="g"), [Example(x, TARGET)], "sparseness", epochs=3)
    loaded = load(save_converted(ours, tmp_path / "a.safetensors"), model=network()).model
    assert torch.equal(loaded(x), ours(x))
    assert torch.equal(loaded.explain(x, TARGET, **explain), ours.explain(x, TARGET, **explain))
    assert not torch.equal(loaded.explain(x, TARGET, **explain), plain)


def test_falls_are_what_a_patch_is_worth():
    x, model = images(), network()
    found = patch_logit_drops(model, x, TARGET, 4)
    assert found.shape == (4, 1, 2, 2)
    without = x.clone()
    without[:, :, :4, 4:] = 0
    expected = (model(x) - model(without)).gather(1, TARGET[:, None])[:, 0]
    assert torch.allclose(found[:, 0, 0, 1], expected, atol=1e-5)


def test_what_cannot_be_learned_is_refused():
    x = images()
    ours = split(network(), x)
    examples = [Example(x, TARGET)]
    with pytest.raises(UnknownNameError, match="mask, sparseness, faithfulness"):
        learn_bounds(SplitLRP(ours), examples, "beauty")
    for blind in (SplitCAM(ours, "relu"), SplitGrad(ours, stream="g", alpha=0.5)):
        with pytest.raises(OptionError, match="do not depend on V"):
            learn_bounds(blind, examples, "sparseness")
    pair = tiny_pair()
    with pytest.raises(OptionError, match="has no bounds"):
        learn_bounds(SplitLRP(pair, stream="g"), examples, "sparseness")
