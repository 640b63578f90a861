"""Split networks against the split by its definition, in float64, on random small networks."""

from copy import deepcopy

import effort
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from literal_split import Literal
from random_networks import networks
from small_pairs import tiny_pair
from torch.nn import MaxPool2d

from dmn.canonize import hookable
from dmn.nn import BackwardConfig, MaxMinPool2d
from dmn.split.build import split

EPSILON = 1e-6
TARGET = torch.tensor([2, 0])
SHIFTS = (0.0, 0.2, 0.4, 0.5)
DRAWN = settings(
    max_examples=effort.examples(30, 200),
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def close(ours, literal, what, scale=None):
    literal = literal.detach()
    scale = float(literal.abs().max()) if scale is None else scale
    error = float((ours - literal).abs().max())
    # the least is what zero may be after rounding: sums of numbers about 1 that cancel
    assert error <= max(1e-8 * scale, 1e-15), f"{what}: {error:.2g} of {scale:.2g}"


def pairs(values):
    return zip(values[::2], values[1::2], strict=True)


def images(seed=0):
    return torch.randn(2, 2, 7, 7, generator=torch.Generator().manual_seed(seed)).double()


def gradient(model, x):
    """Return autograd's, of a copy that overwrites nothing: in place it may refuse."""
    model = deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    x = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(model(x).gather(1, TARGET[:, None]).sum(), x)
    return result


@DRAWN
@given(networks, st.sampled_from(["winner", "convex"]))
def test_streams_and_sensitivities_are_those_of_the_definition(model, pool):
    x = images()
    ours = split(model, x, pool=pool, theta=1.0)
    literal = Literal(model, x, pool=pool)
    assert torch.equal(ours(x), model(x))
    close(ours.g(x), literal.p, "g")
    close(ours.h(x), literal.n, "h")
    truth = gradient(model, x)
    for alpha in SHIFTS:
        literal.alpha = alpha
        expected = literal.sensitivities(TARGET)
        read = ours.read(x, TARGET, ours.layers, BackwardConfig(alpha=alpha), ("g", "h", "g-h"))
        for layer in ours.layers:
            values = [s.detach() for s in literal.streams[literal.traced.layers[layer]]]
            for side, deltas in zip("gh", pairs(expected[layer]), strict=True):
                compare(read[layer][side], values, deltas, f"{side} at {layer}, alpha {alpha}")
        assert torch.equal(read["input"]["g-h"].delta_p, truth)
        for side, sign in (("g", 1), ("h", -1)):
            alone = ours.read(x, TARGET, ("input",), BackwardConfig(alpha=alpha), (side,))["input"][
                side
            ]
            close(alone.delta_p, read["input"][side].delta_p, f"{side} alone")
            if alpha == 0.5:
                assert torch.equal(2 * alone.delta_p, sign * truth)


def compare(reading, values, deltas, where):
    """Compare streams, sensitivities and SplitCAM; sensitivities to p and n share a scale."""
    scale = float(max(delta.abs().max() for delta in deltas))
    mine = zip(reading[:2], reading[2:], strict=True)
    for (value, delta), true_value, true_delta in zip(mine, values, deltas, strict=True):
        close(value, true_value, f"stream of {where}")
        close(delta, true_delta, f"sensitivity of {where}", scale)
        cam = (true_value * true_delta).sum(1)
        size = float((true_value * true_delta).abs().sum(1).max() + scale * true_value.max())
        close((value * delta).sum(1), cam, f"SplitCAM of {where}", size)


@DRAWN
@given(
    networks,
    st.sampled_from(["winner", "convex"]),
    st.sampled_from([(1.0, 0.0), (0.0, 0.0), (0.1, 0.5)]),
    st.sampled_from([0.0, 0.2, 0.4, 0.5]),
)
def test_relevance_is_that_of_the_definition(model, pool, recentring, alpha):
    x = images(1)
    theta, threshold = recentring
    ours = split(model, x, pool=pool, theta=theta, threshold=threshold)
    literal = Literal(model, x, pool=pool, theta=theta, threshold=threshold)
    expected = literal.relevance(TARGET, EPSILON, lambda node: alpha)
    start = 1e-4 * literal.p.detach().max()  # layers beside the path hold next to none
    read = ours.read(
        x,
        TARGET,
        ours.layers,
        BackwardConfig("relevance", "class", EPSILON, alpha, alpha),
        ("g", "h", "g-h"),
    )
    for layer in ours.layers:
        for side, (relevance_p, relevance_n) in zip("gh", pairs(expected[layer]), strict=True):
            mine = read[layer][side]
            size = float(max(relevance_p.abs().max(), relevance_n.abs().max(), start))
            close(mine.p * mine.delta_p, relevance_p, f"R+ of {side} at {layer}", size)
            close(mine.n * mine.delta_n, relevance_n, f"R- of {side} at {layer}", size)
        g, h, difference = (read[layer][stream].delta_p for stream in ("g", "h", "g-h"))
        close(difference, g - h, f"g - h at {layer}", float(max(g.abs().max(), h.abs().max())))


def test_trained_differences_are_written_in_what_rules_are_known_for():
    """Their pools are traced through, so that the hooks of other libraries find a max pool."""
    pair = tiny_pair(activation="convex_concave", residual=True, pool="max_min")
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    result = split(pair, x)  # compares their values itself
    close((result.g(x) - result.h(x)).detach(), pair(x), "difference")
    kinds = {type(module) for module in hookable(pair).modules()}
    assert MaxPool2d in kinds
    assert MaxMinPool2d not in kinds
