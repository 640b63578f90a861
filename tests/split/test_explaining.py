"""SplitCAM, SplitGrad and SplitLRP of split networks: their options, and what they cost."""

import pytest
import torch
from small_pairs import randomise, tiny_pair
from torch import nn

from dmn.errors import OptionError, UnknownNameError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP, explain_together
from dmn.nn import BackwardConfig
from dmn.split import split

TARGET = torch.tensor([2, 0, 1])
METHODS = [SplitCAM, SplitGrad, SplitLRP]


def network(seed=0, bias=True):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=bias),
        nn.BatchNorm2d(6) if bias else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4, bias=bias),
    )
    return randomise(body).double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def model(images):
    return split(network(), images, theta=1.0)


def close(one, other):
    return float((one - other).abs().max()) <= 1e-6 * float(other.abs().max())


def up(values, images):
    values = values.sum(1, keepdim=True)
    return nn.functional.interpolate(values, images.shape[-2:], mode="bilinear").float()


@pytest.mark.parametrize("layer", ["input", "2", "4", "7"])
def test_maps_are_made_of_streams_and_sensitivities(model, images, layer):
    read = model.read(images, TARGET, [layer], BackwardConfig(alpha=0.2), ("g", "h", "g-h"))[layer]
    for stream, (p, n, delta_p, delta_n) in read.items():
        options = {"layer": layer, "stream": stream, "alpha": 0.2}
        for part, value in (
            ("p", p * delta_p),
            ("n", n * delta_n),
            ("p+n", p * delta_p + n * delta_n),
            ("p-n", p * delta_p - n * delta_n),
        ):
            assert close(SplitCAM(model, part=part, **options)(images, TARGET), up(value, images))
        grad = SplitGrad(model, part="p", **options)(images, TARGET)
        assert close(grad, up(delta_p, images) / delta_p.shape[1])
        assert torch.equal(grad, SplitGrad(model, **options)(images, TARGET))  # of p by default
        magnitude = SplitCAM(model, part="p", absolute=True, **options)(images, TARGET)
        assert magnitude.min() >= 0
    g_h = SplitCAM(model, layer, "g-h", alpha=0.2)(images, TARGET)
    u = read["g"].p - read["g"].n
    assert close(g_h, up(u * read["g-h"].delta_p, images))  # F times the activation


@pytest.mark.parametrize("layer", ["input", "2", "4", "7"])
@pytest.mark.parametrize("part", ["p", "n"])
@pytest.mark.parametrize("stream", ["g", "h"])
def test_relevance_without_epsilon_is_activation_times_sensitivity(
    model, images, layer, part, stream
):
    """The identity of the split: ReLU, the literal streams, no shift, epsilon 0."""
    options = {"layer": layer, "part": part, "stream": stream}
    cam = SplitCAM(model, **options)(images, TARGET)
    unshifted = {"epsilon": 0.0, "alpha": 0.0, "head_alpha": 0.0, "contrast": False}
    lrp = SplitLRP(model, **unshifted, **options)(images, TARGET)
    assert close(lrp, cam)


def test_least_streams_give_the_z_plus_rule(images):
    """theta 0, no biases, images >= 0: relevance goes by w+ a / sum w+ a, layer by layer."""
    net, x = network(bias=False), images.abs()
    options = {"epsilon": 0.0, "alpha": 0.0, "head_alpha": 0.0, "contrast": False}
    lrp = SplitLRP(split(net, x), stream="g", part="p", **options)(x, TARGET)
    activations = [x]
    for layer in net:
        activations.append(layer(activations[-1]))
    relevance = torch.zeros_like(activations[-1])
    # At the last layer p is what speaks for the class, not only where it is active.
    last = activations[-2] @ net[-1].weight.clamp(min=0).T
    relevance.scatter_(1, TARGET[:, None], last.gather(1, TARGET[:, None]))
    for layer, a in reversed(list(zip(net, activations, strict=False))):
        a = a.detach().requires_grad_()
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            positive = type(layer)(*shape_of(layer), bias=False).double()
            if isinstance(layer, nn.Conv2d):
                positive.padding = layer.padding
            positive.weight = nn.Parameter(layer.weight.detach().clamp(min=0))
            z = positive(a)
        elif isinstance(layer, nn.ReLU):
            continue
        else:
            z = layer(a)
        ratio = torch.where(z > 0, relevance / z, torch.zeros_like(z)).detach()
        relevance = a.detach() * torch.autograd.grad(z, a, ratio)[0]
    assert close(lrp, relevance.sum(1, keepdim=True).float())


def shape_of(layer):
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, layer.kernel_size


def test_contrast_starts_from_the_class_less_the_mean(model, images):
    """By linearity: the map of the class less the mean of the maps of all classes."""
    options = {"layer": "4", "stream": "g", "part": "p", "alpha": 0.3}
    contrast = SplitCAM(model, contrast=True, **options)(images, TARGET)
    plain = SplitCAM(model, **options)
    mean = sum(plain(images, target) for target in range(4)) / 4
    assert close(contrast, plain(images, TARGET) - mean)


@pytest.mark.parametrize("shifts", [{}, {"alpha": 0.3}, {"alpha": 0.0, "head_alpha": 0.0}])
def test_contrast_of_relevance_subtracts_the_mean_of_all_classes_normalised(model, images, shifts):
    options = {"layer": "input", "stream": "g", "part": "p+n", **shifts}
    contrast = SplitLRP(model, contrast=True, **options)(images, TARGET)
    plain = SplitLRP(model, contrast=False, **options)
    one = plain(images, TARGET)
    mean = sum(plain(images, target) for target in range(4)) / 4
    one, mean = (m / m.abs().sum((1, 2, 3), keepdim=True) for m in (one, mean))
    assert (contrast - (one - mean)).abs().max() <= 1e-5 * one.abs().max()
    if shifts.get("alpha") == 0:  # nothing is negative: what all classes share is gone
        assert contrast.sum((1, 2, 3)).abs().max() < 1e-5


def test_shifts_by_layer(model, images):
    everywhere = dict.fromkeys(model.layers, 0.3)
    for layer in ("input", "4"):
        options = {"layer": layer, "stream": "g", "part": "p"}
        scalar = SplitCAM(model, alpha=0.3, **options)(images, TARGET)
        assert torch.equal(SplitCAM(model, alpha=everywhere, **options)(images, TARGET), scalar)
        top = SplitCAM(model, alpha={"7": 0.3}, **options)(images, TARGET)
        assert not torch.equal(top, scalar)
    last = {"layer": "6", "stream": "g", "part": "p"}
    assert torch.equal(
        SplitCAM(model, alpha={"7": 0.3}, **last)(images, TARGET),
        SplitCAM(model, alpha=0.3, **last)(images, TARGET),
    )


def test_balance_sets_the_streams_share_whatever_the_depth(model, images):
    """rho 0 is the plain gradient; otherwise mean |A| is rho mean |F| after the last shift."""
    options = {"layer": "input", "stream": "g", "part": "p"}
    plain = SplitGrad(model, alpha=0.5, **options)(images, TARGET)
    assert close(SplitGrad(model, alpha="balanced", rho=0.0, **options)(images, TARGET), plain)
    for rho in (0.5, 2.0):
        how = BackwardConfig(alpha="balanced", rho=rho)
        # Layer 6 is read right below the last activation, which hands A on as it was shifted.
        read = model.read(images, TARGET, ["6"], how, ("g", "h"))["6"]
        a = (read["g"].delta_p + read["g"].delta_n) / 2
        above = model.read(images, TARGET, ["7"], how, ("g-h",))["7"]["g-h"].delta_p
        ratio = a.abs().mean((1, 2, 3)) / above.abs().mean((1, 2, 3))
        assert torch.allclose(ratio, torch.full_like(ratio, rho))


@pytest.mark.parametrize("method", METHODS)
def test_the_pool_and_theta_of_a_map_may_differ_from_the_networks(images, method):
    net = network()
    options = {"layer": "input", "stream": "g", "part": "p"}
    for pool, theta in (("winner", 0.0), ("convex", 1.0), ("winner", 0.3)):
        own = method(split(net, images, pool=pool, theta=theta), **options)(images, TARGET)
        asked = method(split(net, images), pool=pool, theta=theta, **options)(images, TARGET)
        assert torch.equal(own, asked)


def test_many_maps_cost_one_pass(model, images, monkeypatch):
    """Layers, streams and parts share a pass; another shift, and relevance, take their own."""
    explainers = [
        *(
            SplitCAM(model, layer, stream, "p", alpha=0.2)
            for layer in ("input", "4")
            for stream in ("g", "h", "g-h")
        ),
        SplitGrad(model, "7", "g", "n", alpha=0.2),
        SplitLRP(model, "4", "g"),
        SplitGrad(model, "4", "g", alpha=0.4),
    ]
    alone = [explainer(images, TARGET) for explainer in explainers]
    passes, read = [], type(model).read
    monkeypatch.setattr(
        type(model), "read", lambda *args, **kwargs: passes.append(args) or read(*args, **kwargs)
    )
    together = explain_together(explainers, images, TARGET)
    assert len(passes) == 3
    for one, other in zip(together, alone, strict=True):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()


def test_all_three_streams_by_name(model, images):
    maps = SplitCAM(model, "4", alpha=0.4).streams(images, TARGET)
    for name, values in zip(("g", "h", "g-h"), maps, strict=True):
        alone = SplitCAM(model, "4", name, alpha=0.4)(images, TARGET)
        assert (values - alone).abs().max() <= 1e-6 * alone.abs().max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_explaining_leaves_no_trace(model, images, method, context):
    expected = method(model, "4", "g")(images, TARGET)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with context():
        x = images.clone()
        assert torch.equal(method(model.train(), "4", "g")(x, TARGET.clone()), expected)
        assert torch.equal(x, images)
        assert model.explain(x, method="SplitLRP", layer="4").shape == (3, 1, 8, 8)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not expected.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_does_not_apply_is_refused_by_name(model, images):
    with pytest.raises(OptionError, match=r"alpha is 0.7, not in \[0.0, 0.5\]"):
        SplitCAM(model, alpha=0.7)(images)
    with pytest.raises(OptionError, match=r"alpha is 0.7, not in \[0.0, 0.5\]"):
        SplitCAM(model, alpha={"7": 0.7})(images)
    with pytest.raises(OptionError, match=r"alpha is .*\[0.3\].*give a number or a name"):
        SplitCAM(model, alpha={"7": [0.3]})
    with pytest.raises(OptionError, match=r"alpha is \(0.3,\); give one number, a pair"):
        SplitCAM(model, alpha=[0.3])(images)
    with pytest.raises(OptionError, match=r"theta is -1, not in"):
        split(network(), theta=-1)
    with pytest.raises(OptionError, match="pool is 'mean'"):
        SplitCAM(model, pool="mean")(images)
    with pytest.raises(UnknownNameError, match="no layer 'layer4'; there are input, 0, 1"):
        SplitCAM(model, "layer4")
    with pytest.raises(UnknownNameError, match="no layer '11'"):
        SplitCAM(model, alpha={"11": 0.2})(images)
    with pytest.raises(UnknownNameError, match=r"'9' holds no image, \(3, 8\)"):
        model.read(images, TARGET, ["9"])
    pair = tiny_pair()
    with pytest.raises(OptionError, match="alpha, pool: for split networks only"):
        SplitCAM(pair, "stem", alpha=0.2, pool="convex")(torch.rand(2, 1, 8, 8).double())


def test_a_trained_pair_splits_too_and_takes_contrast():
    """It is a network as any other; and both kinds are asked by one interface."""
    pair, x = tiny_pair(), torch.rand(3, 1, 8, 8).double()
    ours = split(pair, x)
    assert torch.equal(ours(x), pair(x))
    for explained in (ours, pair):
        for method in METHODS:
            maps = method(explained, "input", "g", "p", contrast=True)(x, TARGET % 3)
            assert torch.isfinite(maps).all()
    plain = SplitCAM(pair, "stem", "g")
    mean = sum(plain(x, target) for target in range(3)) / 3
    contrast = SplitCAM(pair, "stem", "g", contrast=True)(x, TARGET % 3)
    assert close(contrast, plain(x, TARGET % 3) - mean)


def test_splitcam_reads_the_last_layer_of_a_quarter_of_the_sides(images):
    net = network()
    without_example = split(net)
    assert without_example.cam_layer == SplitCAM(without_example).layer == "input"
    for size, layer in ((8, "7"), (40, "7")):  # a pool halves the image, and the rest keeps it
        model = split(net, torch.rand(1, 2, size, size).double())
        assert model.cam_layer == SplitCAM(model).layer == layer
        assert SplitGrad(model).layer == SplitLRP(model).layer == "input"
    deeper = nn.Sequential(*net[:8], nn.Conv2d(8, 8, 2, stride=2), nn.ReLU(), nn.MaxPool2d(2))
    deeper = nn.Sequential(*deeper, *net[8:]).double().eval()
    model = split(deeper, torch.rand(1, 2, 16, 16).double())
    assert model.cam_layer == "9"
    assert SplitCAM(model, "4").layer == "4"


def test_of_one_output_the_name_of_the_outermost_module_is_read():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
    net = nn.Sequential(
        nn.Sequential(block), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    assert split(net.eval(), torch.rand(1, 2, 8, 8)).cam_layer == "0"
