"""Why one class and not another: maps of the difference of two logits."""

from functools import cache

import pytest
import torch
from small_pairs import fronted_pair, tiny_pair
from torch import nn

from dmn.baselines import AttentionRollout, GradCAM
from dmn.errors import OptionError, TargetError, UnknownNameError
from dmn.explain import (
    Against,
    RandomMap,
    SplitCAM,
    SplitGrad,
    SplitLRP,
    find_method,
    resolve_target,
)
from dmn.nn import BackwardConfig, output_relevance, select_output
from dmn.split import FrontAdapter, split

TARGET, RIVAL = torch.tensor([2, 0, 1, 1, 0]), torch.tensor([0, 1, 2, 0, 2])
LINEAR = ["Gradient", "InputXGradient", "IntegratedGradients", "SmoothGrad", "Occlusion"]
LINEAR += ["DeepLift", "FeatureAblation", "GradientSHAP", "LRPEpsilon"]


@cache
def networks():
    """Make a CNN in float64, with and without overlapping paths, and pairs; with their images."""
    torch.manual_seed(0)
    cnn = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.Softplus()),
        *(nn.Flatten(), nn.Linear(20, 3)),
    )
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    return {
        "trained": (tiny_pair(), x),
        "split": (split(cnn.double().eval(), x), x),
        "front": (
            FrontAdapter(fronted_pair()),
            torch.rand(5, 3, 16, 16, dtype=torch.float64),
        ),
    }


def maps_of(kind, stream, network, target, **options):
    pair, x = networks()[network]
    part = "p" if kind is SplitGrad else "p+n"
    return kind(pair, "input", stream, part, **options)(x, target)


def close(one, other):
    """Compare maps up to the rounding of their type, of the larger."""
    return (one - other).abs().max() <= 1e-6 * max(one.abs().max(), other.abs().max())


@pytest.mark.parametrize("network", ["trained", "split", "front"])
@pytest.mark.parametrize("stream", ["g", "h", "g-h"])
@pytest.mark.parametrize("contrast", [False, "mean"])
@pytest.mark.parametrize("kind", [SplitCAM, SplitGrad, SplitLRP])
def test_a_map_against_a_rival_is_the_difference_of_two_maps(kind, contrast, stream, network):
    """A pass is linear in where it starts: for relevance too, whose shares do not depend on it."""
    options = {"contrast": contrast}
    one, other = (maps_of(kind, stream, network, each, **options) for each in (TARGET, RIVAL))
    against = maps_of(kind, stream, network, Against(TARGET, RIVAL), **options)
    scale = max(one.abs().max(), other.abs().max())
    assert (against - (one - other)).abs().max() <= 1e-6 * scale
    assert against.abs().max() > 0.01 * scale


@pytest.mark.parametrize("network", ["trained", "split", "front"])
@pytest.mark.parametrize("stream", ["g", "h", "g-h"])
@pytest.mark.parametrize("kind", [SplitCAM, SplitGrad, SplitLRP])
def test_swapping_the_classes_turns_the_sign(kind, stream, network):
    against, swapped = (
        maps_of(kind, stream, network, Against(*classes))
        for classes in [(TARGET, RIVAL), (RIVAL, TARGET)]
    )
    assert torch.equal(against, -swapped)
    assert against.any()


@pytest.mark.parametrize("network", ["trained", "split"])
def test_the_mean_of_all_logits_cancels(network):
    for kind in (SplitCAM, SplitGrad, SplitLRP):
        plain, mean = (
            maps_of(kind, "g-h", network, Against(TARGET, RIVAL), contrast=contrast)
            for contrast in (False, "mean")
        )
        assert torch.equal(plain, mean)


def test_completeness_of_the_difference():
    """Without biases SplitCAM sums up to the two logits' difference, in float64."""
    torch.manual_seed(1)
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(80, 3, bias=False)),
    ).double()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    pair = split(net, x)
    difference = (net(x).gather(1, TARGET[:, None]) - net(x).gather(1, RIVAL[:, None]))[:, 0]
    both = torch.stack([TARGET, RIVAL], 1)
    for backward, alpha in (("gradient", 0.0), ("relevance", 0.5)):
        config = BackwardConfig(backward, "class", epsilon=1e-12, alpha=alpha)
        p, n, delta_p, delta_n = pair.read(x, both, ["input"], config, ["g-h"])["input"]["g-h"]
        total = (p * delta_p + n * delta_n).sum((1, 2, 3))
        assert torch.allclose(total, difference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LINEAR)
def test_other_methods_explain_the_difference_of_two_logits(name):
    """As captum would, asked for a network with that one output; some are linear in it."""
    pair, x = networks()["split"]
    explainer = find_method(name).factory(pair.network)
    one, other = explainer(x, TARGET), explainer(x, RIVAL)
    against = explainer(x, Against(TARGET, RIVAL))
    assert (against - (one - other)).abs().max() <= 1e-5 * max(one.abs().max(), other.abs().max())
    assert close(against, -explainer(x, Against(RIVAL, TARGET)))
    assert against.any()


def test_class_activation_maps_clip_the_difference():
    """Grad-CAM by its definition: only what is left for the class after clipping is seen."""
    torch.manual_seed(2)
    below = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))
    above = nn.Sequential(nn.GELU(), nn.Flatten(), nn.Linear(320, 3))
    net, x = nn.Sequential(*below, *above).double(), networks()["split"][1]
    a = below(x).detach().requires_grad_()
    logits = above(a)
    score = (logits[range(5), TARGET] - logits[range(5), RIVAL]).sum()
    (gradient,) = torch.autograd.grad(score, a)
    wanted = (a * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    ours = GradCAM(net, layer="2")(x, Against(TARGET, RIVAL))
    assert torch.allclose(ours.double(), wanted, rtol=1e-5, atol=1e-8)
    assert ours.any()


def test_what_is_not_given_is_the_prediction_and_the_most_probable_other():
    pair, x = networks()["trained"]
    first, second = pair(x).topk(2, dim=1).indices.unbind(1)
    wanted = torch.stack([first, second], 1)
    assert torch.equal(resolve_target(pair, x, Against()), wanted)
    assert torch.equal(resolve_target(pair, x, Against(rival=second)), wanted)
    assert torch.equal(resolve_target(pair, x, Against(first)), wanted)
    assert resolve_target(pair, x, Against(second))[:, 1].tolist() == first.tolist()
    named = resolve_target(pair, x, Against("cat", "dog"), ["dog", "fox", "cat"])
    assert named.tolist() == [[2, 0]] * 5


def test_what_cannot_be_compared_is_refused():
    pair, x = networks()["trained"]
    with pytest.raises(TargetError, match="class 1 is its own rival; give another class"):
        SplitCAM(pair)(x, Against(TARGET, 1))
    for wrong in (3, torch.tensor([0, 1, 2, 0, 7])):
        for kind in (SplitCAM(pair), SplitLRP(pair), find_method("Gradient").factory(pair)):
            with pytest.raises(TargetError, match=r"the network has no class [37]; there are 0 to"):
                kind(x, Against(TARGET, wrong))
    with pytest.raises(TargetError, match="target -1 is negative"):
        SplitCAM(pair)(x, Against(0, -1))
    with pytest.raises(UnknownNameError, match="no class 'cow'"):
        resolve_target(pair, x, Against("cat", "cow"), ["dog", "cat"])
    with pytest.raises(TargetError, match=r"target is Against\("):
        RandomMap()(x, Against(0, 1))
    for contrast in (True, "clrp", "sglrp"):
        told = f"contrast {'True, of' if contrast is True else repr(contrast)} .*leave contrast out"
        with pytest.raises(OptionError, match=told):
            SplitLRP(pair, contrast=contrast)(x, Against(0, 1))
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()
    for rival in (None, 1):
        with pytest.raises(TargetError, match="needs two classes, and the network has one logit"):
            SplitLRP(split(one, x))(x, Against(0, rival))


def test_attention_that_is_the_same_for_all_classes_has_no_rival():
    from torchvision.models import VisionTransformer

    sizes = {"num_heads": 2, "hidden_dim": 8, "mlp_dim": 8, "num_classes": 3}
    net = VisionTransformer(8, 4, 1, **sizes).eval()
    with pytest.raises(OptionError, match="AttentionRollout is the same for every class"):
        AttentionRollout(net)(torch.rand(1, 3, 8, 8), Against(0, 1))


def test_starts_of_a_pass_for_two_classes():
    logits = torch.tensor([[4.0, 1.0, -3.0], [0.5, 2.0, 1.0]], dtype=torch.float64)
    both = torch.tensor([[0, 2], [1, 0]])
    for output in ("class", "contrast"):
        weights = select_output(logits, both, output)
        assert weights.tolist() == [[1, 0, -1], [-1, 1, 0]]
        relevance = output_relevance(logits, both, output)
        assert relevance.tolist() == [[4, 0, 3], [-0.5, 2, 0]]
        difference = logits.gather(1, both) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
        assert torch.equal(relevance.sum(1), difference)
