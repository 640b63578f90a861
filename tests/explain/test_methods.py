"""SplitCAM, SplitGrad and SplitLRP against slow, literal re-implementations in float64."""

import pytest
import torch
from small_pairs import tiny_pair
from torch import nn

from dmn.errors import OptionError
from dmn.explain import SplitCAM, SplitExplainer, SplitGrad, SplitLRP, StreamMaps
from dmn.models.monotone import ConvUnit
from dmn.nn import EPSILON, BackwardConfig, MaxMinPool2d

TARGET = torch.tensor([2, 0, 1, 1, 0])
OPTIONS = [
    {"inputs": inputs, "activation": activation, "residual": residual, "pool": pool, "seed": seed}
    for seed, (inputs, activation, residual, pool) in enumerate(
        [
            ("paired", "convex", False, "max"),
            ("paired", "convex", True, "max"),
            ("inverted", "convex", True, "max"),
            ("paired", "convex_concave", True, "max"),
            ("plain", "saturating", False, "max"),
            ("paired", "saturating", True, "max"),
            ("paired", "convex_concave", True, "max_min"),
        ]
    )
]


def matrix_and_bias(module, shape):
    """Write a linear layer out as a dense matrix (outputs, inputs), column by column."""
    size = torch.Size(shape).numel()
    with torch.no_grad():
        bias = module(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        columns = module(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1) - bias
    return columns.T, bias


class Literal:
    """Epsilon-LRP of one image by its definition, one layer at a time, keeping the books."""

    def __init__(self):
        self.absorbed = 0.0

    def linear(self, module, a, relevance):
        matrix, bias = matrix_and_bias(module, a.shape)
        z = matrix @ a.flatten() + bias
        ratio = relevance.flatten() / (z + EPSILON * z.sign()).where(z != 0, torch.ones_like(z))
        self.absorbed += float((bias * ratio).sum() + (EPSILON * z.sign() * ratio).sum())
        return (a.flatten() * (matrix.T @ ratio)).view_as(a)

    def pool(self, module, a, relevance):
        if isinstance(module, nn.MaxPool2d | MaxMinPool2d):
            convex = len(a) if isinstance(module, nn.MaxPool2d) else (len(a) + 1) // 2
            signed = torch.cat([a[:convex], -a[convex:]])
            _, index = nn.functional.max_pool2d(signed[None], 2, return_indices=True)
            spread = torch.zeros_like(a).flatten(1)
            return spread.scatter_add(1, index[0].flatten(1), relevance.flatten(1)).view_as(a)
        matrix, _ = matrix_and_bias(module, a.shape)
        z = matrix @ a.flatten()
        ratio = torch.where(z == 0, torch.zeros_like(z), relevance.flatten() / z)
        return (a.flatten() * (matrix.T @ ratio)).view_as(a)

    def unit(self, unit, a, relevance):
        conv, norm, activation = unit
        middle = conv(a[None])[0]
        z = norm(middle[None])[0]
        total = z + a if unit.residual else z
        passed = relevance.where(activation(total[None])[0] != 0, torch.zeros_like(relevance))
        to_z = passed * torch.where(total == 0, torch.zeros_like(z), z / total)
        down = self.linear(conv, a, self.linear(norm, middle, to_z))
        return down + (passed - to_z) if unit.residual else down

    def __call__(self, side, image, target, layer):
        """Return the relevance at a layer, and that of the logit."""
        activations, layers = [side.input(image[None])[0]], list(side.net.named_children())
        for _, module in layers:
            activations.append(module(activations[-1][None])[0])
        start = activations[-1][target]
        relevance = torch.zeros_like(activations[-1])
        relevance[target] = start
        names = ["input", *(name for name, _ in layers)]
        for position in range(len(layers), names.index(layer), -1):
            module = layers[position - 1][1]
            a = activations[position - 1]
            if isinstance(module, ConvUnit):
                relevance = self.unit(module, a, relevance)
            elif isinstance(module, nn.Linear):
                relevance = self.linear(module, a, relevance)
            elif isinstance(module, nn.Flatten):
                relevance = relevance.view_as(a)
            else:
                relevance = self.pool(module, a, relevance)
        return relevance, float(start)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layer", ["input", "stem", "pool1", "stage2_1"])
def test_split_lrp_is_epsilon_lrp_and_conserves(options, layer, images):
    """Agrees with the definition, and relevance is conserved up to what biases absorb."""
    with torch.no_grad():
        pair = tiny_pair(**options)
        readings = pair.read(images, TARGET, [layer], BackwardConfig("relevance"))[layer]
        for side, reading in ((pair.g, readings["g"]), (pair.h, readings["h"])):
            ours = torch.cat([reading.p * reading.delta_p, reading.n * reading.delta_n], 1)
            for index in range(2):
                book = Literal()
                relevance, start = book(side, images[index], TARGET[index], layer)
                assert float(relevance.sum()) + book.absorbed == pytest.approx(start, rel=1e-8)
                inner = relevance[:, 1:-1, 1:-1] if layer == "input" else relevance
                scale = float(inner.abs().max())
                assert torch.allclose(ours[index], inner, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("options", OPTIONS[:4])
@pytest.mark.parametrize("layer", ["input", "stem", "stage2_1"])
def test_lrp_is_activation_times_gradient_where_units_are_piecewise_linear(options, layer, images):
    """The identity of the split: at epsilon → 0 relevance is activation times sensitivity."""
    pair = tiny_pair(**options)
    cam, lrp = (method(pair, layer).streams(images, TARGET) for method in (SplitCAM, SplitLRP))
    for one, other in zip(cam, lrp, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_saturating_units_tell_lrp_and_cam_apart(images):
    pair = tiny_pair(activation="saturating")
    cam, lrp = (method(pair, "input").streams(images, TARGET) for method in (SplitCAM, SplitLRP))
    assert (cam.g - lrp.g).abs().max() > 0.01 * cam.g.abs().max()


@pytest.mark.parametrize("layer", ["stem", "pool1", "stage2_1"])
def test_cam_and_grad_against_finite_differences(pair, images, layer):
    """Sensitivity by nudging one unit of the layer at a time."""
    image, target, step = images[:1], 1, 1e-6
    names = list(pair.g.net._modules)
    cut = names.index(layer) + 1
    before, after = list(pair.g.net)[:cut], list(pair.g.net)[cut:]
    with torch.no_grad():
        a = nn.Sequential(pair.g.input, *before)(image)
        above = nn.Sequential(*after)
        nudges = torch.eye(a.numel(), dtype=torch.float64).view(-1, *a.shape[1:]) * step
        up, down = above(a + nudges)[:, target], above(a - nudges)[:, target]
        slope = ((up - down) / (2 * step)).view_as(a)
    expected = {
        SplitCAM: (a * slope).sum(1, keepdim=True),
        SplitGrad: slope.mean(1, keepdim=True),
    }
    for method, map_at_layer in expected.items():
        ours = method(pair, layer, stream="g")(image, target)
        full = nn.functional.interpolate(map_at_layer, (8, 8), mode="bilinear")
        assert torch.allclose(ours.double(), full, atol=1e-5 * float(full.abs().max()))


def test_streams_and_parts_combine(pair, images):
    """g - h is the difference; p + n and p - n at the paired input are of its halves."""
    maps = {
        (stream, part): SplitCAM(pair, "input", stream, part)(images, TARGET)
        for stream in ("g", "h", "g-h")
        for part in ("p", "n", "p+n", "p-n")
    }
    for part in ("p", "n", "p+n", "p-n"):
        g, h, difference = (maps[stream, part] for stream in ("g", "h", "g-h"))
        # Equal up to float32's rounding: the difference is taken before it.
        assert (difference - (g - h)).abs().max() <= 1.2e-7 * max(g.abs().max(), h.abs().max())
    for stream in ("g", "h"):
        p, n = maps[stream, "p"], maps[stream, "n"]
        assert torch.allclose(maps[stream, "p+n"], p + n, atol=1e-5)
        assert torch.allclose(maps[stream, "p-n"], p - n, atol=1e-5)


def test_ink_evidence_lies_on_the_ink(pair, images):
    images = images * (images > 0.5)
    p = SplitCAM(pair, "input", "g", "p")(images, TARGET)
    assert (p[images == 0] == 0).all()
    assert (p >= 0).all()
    assert p.sum() > 0


def test_a_layer_without_part_n_says_so(pair, images):
    with pytest.raises(OptionError, match="layer 'stem' has no part n"):
        SplitCAM(pair, "stem", part="n")(images)


@pytest.mark.parametrize("method", [SplitCAM, SplitGrad, SplitLRP])
def test_maps_do_not_depend_on_the_batch(pair, images, method):
    explainer = method(pair, "stage2_1")
    together = explainer(images, TARGET)
    for index in range(len(images)):
        alone = explainer(images[index : index + 1], TARGET[index : index + 1])
        assert torch.allclose(alone[0], together[index], atol=1e-6 * float(together.abs().max()))


def test_targets_are_a_class_a_tensor_or_the_prediction(pair, images):
    explainer = SplitCAM(pair, "stem")
    assert torch.equal(explainer(images), explainer(images, pair(images).argmax(1)))
    assert torch.equal(explainer(images, 1), explainer(images, torch.ones(5, dtype=torch.long)))
    assert not torch.equal(explainer(images, 0), explainer(images, 1))


@pytest.mark.parametrize("method", [SplitCAM, SplitLRP])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_explaining_leaves_no_trace(pair, images, method, context):
    """In any grad mode; modes, gradients, flags, hooks and batch statistics stay as they were."""
    expected = method(pair, "stem")(images, TARGET)
    pair.g.train()
    pair.h.net.stem.conv.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in pair.state_dict().items()}
    modes = {name: module.training for name, module in pair.named_modules()}
    with context():
        maps = method(pair, "stem")(images.clone(), TARGET.clone())
        predicted = method(pair, "stem")(images.clone())
    assert torch.equal(maps, expected)
    assert torch.equal(predicted, method(pair, "stem")(images))
    assert not maps.requires_grad
    assert modes == {name: module.training for name, module in pair.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in pair.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.parameters())
    assert not pair.h.net.stem.conv.weight.requires_grad
    assert not any(module._forward_hooks for module in pair.modules())


def test_a_failing_network_is_restored_too(pair, images):
    pair.train()
    with pytest.raises(RuntimeError):
        SplitLRP(pair, "stem")(images[:, :, :1, :1], 0)
    assert all(module.training for module in pair.modules())
    assert not any(module._forward_hooks for module in pair.modules())


def test_users_can_add_a_reduction(pair, images):
    class Largest(SplitExplainer):
        def reduce(self, values, sensitivities):
            return (values * sensitivities).amax(1, keepdim=True)

    maps = Largest(pair, "stem").streams(images)
    assert isinstance(maps, StreamMaps)
    assert maps.g.shape == images.shape
    with pytest.raises(NotImplementedError):
        SplitExplainer(pair, "stem")(images)
