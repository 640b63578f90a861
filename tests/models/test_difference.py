import effort
import pytest
import torch
from small_pairs import fronted_pair, randomise, tiny_pair

from dmn.canonize import canonize, hookable
from dmn.errors import UnknownNameError
from dmn.models import DifferenceOfMonotone, MonotoneConvNet, MonotoneMLP
from dmn.nn import is_pair
from dmn.split import split

INPUTS = ["paired", "opposed", "inverted", "plain"]


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("activation", ["convex", "convex_concave", "saturating"])
def test_g_and_h_are_monotone_in_what_they_see(inputs, activation):
    """Random pairs z <= z', in make test-all 10,000; half differ in one pixel; in float64."""
    count = effort.examples(2_000, 10_000)
    pair = tiny_pair(inputs, activation=activation, residual=True)
    for side in (pair.g, pair.h):
        z = side.input(torch.rand(count, 1, 8, 8, dtype=torch.float64))
        higher = z + torch.rand_like(z) * torch.rand(len(z), 1, 1, 1)
        half = z[: count // 2]
        pixels = torch.randint(z[0].numel(), (len(half), 1))
        single = half.flatten(1).scatter_add(1, pixels, torch.rand(len(half), 1).double())
        higher[: len(half)] = single.view_as(half)
        assert (higher >= z).all()
        with torch.no_grad():
            change = side.net(higher) - side.net(z)
        assert change.min() >= -1e-12
        assert change.max() > 0


@pytest.mark.parametrize("inputs", INPUTS)
def test_forward_is_the_difference(inputs, images):
    pair = tiny_pair(inputs)
    assert torch.equal(pair(images), pair.g(images) - pair.h(images))
    assert is_pair(pair)  # isinstance misses submodules from Python 3.12 on


def test_inverted_logits_are_nondecreasing_in_ink(images):
    pair = tiny_pair("inverted")
    more = (images + torch.rand_like(images)).clamp(max=1)
    assert (pair(more) >= pair(images) - 1e-12).all()


def test_state_dict_round_trips(pair, images, tmp_path):
    torch.save(pair.state_dict(), tmp_path / "pair.pt")
    other = tiny_pair(seed=7)
    assert not torch.equal(other(images), pair(images))
    other.load_state_dict(torch.load(tmp_path / "pair.pt", weights_only=True))
    assert torch.equal(other(images), pair(images))


def test_layers_are_those_of_both_sides(pair):
    assert pair.layers[:3] == ("input", "stem", "stem.conv")
    g, h = MonotoneConvNet(2, (4, 6)), MonotoneConvNet(2, (4,))
    uneven = DifferenceOfMonotone(g, h)
    assert "stage1_1" in uneven.layers
    assert "stage2_1" not in uneven.layers


def test_unknown_layers_are_named(pair, images):
    with pytest.raises(UnknownNameError, match="no layer 'stage9'; there are input, stem"):
        pair.explain(images, layer="stage9")
    with pytest.raises(UnknownNameError, match=r"'head' holds no image, \(5, 3\)"):
        pair.explain(images, layer="head")


def test_explain_by_name(pair, images):
    for method in ("SplitCAM", "SplitGrad", "SplitLRP"):
        maps = pair.explain(images, method=method, layer="stage2_1", stream="g")
        assert maps.shape == images.shape
        assert maps.dtype == torch.float32
    with pytest.raises(UnknownNameError, match="no method 'gradcam'; there are SplitCAM"):
        pair.explain(images, method="gradcam")


@pytest.mark.parametrize("side", ["g", "h"])
def test_readings_are_the_gradient_of_the_view(pair, images, side):
    """At the input, against autograd on the view itself."""
    target = torch.tensor([0, 1, 2, 0, 1])
    reading = pair.read(images, target, ["input"])["input"][side]
    module = getattr(pair, side)
    z = module.input(images).requires_grad_()
    module.net(z).gather(1, target[:, None]).sum().backward()
    inner = z.grad[:, :, 1:-1, 1:-1]
    assert torch.equal(reading.p, images)
    assert torch.equal(reading.n, 1 - images)
    assert torch.allclose(torch.cat([reading.delta_p, reading.delta_n], 1), inner, atol=1e-12)


def test_mlp_pairs_explain_at_the_input(images):
    nets = [MonotoneMLP(2 * 64, (9,), 3) for _ in range(2)]
    pair = randomise(DifferenceOfMonotone(*nets, margin=0)).double().eval()
    assert pair.explain(images, layer="input").shape == images.shape


def test_ordinary_networks_are_no_pairs():
    assert not is_pair(MonotoneMLP(4))
    assert not is_pair(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("activation", ["convex", "convex_concave", "saturating"])
def test_methods_that_trace_networks_trace_these(activation):
    """Baselines rewrite a network, and can split it, whatever its units are."""
    pair = tiny_pair(activation=activation)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(hookable(pair)(x), pair(x))
    torch.testing.assert_close(canonize(pair)(x), pair(x), rtol=0, atol=1e-10)
    model = split(pair, x)
    assert torch.equal(model(x), pair(x))
    torch.testing.assert_close(model.g(x) - model.h(x), pair(x), rtol=0, atol=1e-10)


def test_g_and_h_see_the_image_through_a_front():
    pair = fronted_pair()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    seen = pair.front(x)
    assert torch.equal(pair(x), pair.g(seen) - pair.h(seen))
    padded = torch.nn.functional.pad(seen, (1, 1, 1, 1))
    assert torch.equal(pair.g.input(seen), torch.cat([padded, -padded], 1))


def test_a_pair_with_a_front_is_read_from_what_the_front_makes():
    pair = fronted_pair()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    reading = pair.read(x, torch.tensor([0, 1, 2]), ["front"])["front"]["g"]
    assert torch.equal(reading.p, pair.front(x))
    assert torch.equal(reading.n, -pair.front(x))
    assert reading.delta_p.min() >= 0
    assert pair.explain(x, layer="front", part="p-n").shape == (3, 1, 16, 16)
    with pytest.raises(UnknownNameError, match="no layer 'input'; there are front, stem"):
        pair.explain(x, layer="input")


def test_both_see_the_same_without_a_front(pair, images):
    assert torch.equal(pair.front(images), images)
    assert not [key for key in pair.state_dict() if key.startswith("front")]
