"""The shift of relevance: LRP-gamma, z+ and epsilon-LRP in one family, conserved everywhere."""

import math

import pytest
import torch
import torch.nn.functional as F
from random_networks import ACTIVATIONS
from small_pairs import randomise
from torch import nn

from dmn.canonize import canonize
from dmn.errors import OptionError, TargetError, UnknownNameError
from dmn.explain import SplitCAM, SplitLRP, explain_together
from dmn.nn import BackwardConfig
from dmn.split import split
from dmn.split.relevance import automatic_shift

TARGET = torch.tensor([2, 0, 1])
TINY = 1e-15
GAMMAS = [0.0, 0.1, 0.25, 0.5, 2.0, math.inf]


def images(seed=1):
    return torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(seed)).double()


def network(seed, norm=True, activation=nn.ReLU):
    """Convolutions have a bias or a norm, so that biases are the same where it is folded."""
    torch.manual_seed(seed)
    bias = not norm
    layers = [
        nn.Conv2d(2, 6, 3, padding=1, bias=bias),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=bias),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        activation(),
        nn.Conv2d(8, 8, 1),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
        activation(),
        nn.Linear(6, 4),
    ]
    return randomise(nn.Sequential(*layers)).double().eval()


def relevance(model, x, layer="input", stream="g-h", **options):
    config = BackwardConfig("relevance", **{"epsilon": TINY, **options})
    p, n, delta_p, delta_n = model.read(x, TARGET, [layer], config, [stream])[layer][stream]
    return p * delta_p + n * delta_n


def close(one, other, rtol=1e-8):
    assert float((one - other).abs().max()) <= rtol * float(other.abs().max())


# -- the literal rule ----------------------------------------------------------------------------


def parts(layer, a):
    """Contributions to each output that are positive, and those that are negative."""

    def run(x, w):
        if isinstance(layer, nn.Linear):
            return F.linear(x, w)
        return F.conv2d(x, w, None, layer.stride, layer.padding, layer.dilation, layer.groups)

    w, bias = layer.weight.detach(), 0.0
    if layer.bias is not None:
        bias = layer.bias.detach().view(-1, *[1] * (a.dim() - 2))
    plus, minus = torch.relu(w), -torch.relu(-w)
    up, down = torch.relu(a), -torch.relu(-a)
    positive = run(up, plus) + run(down, minus) + torch.as_tensor(bias).clamp(min=0)
    negative = run(up, minus) + run(down, plus) + torch.as_tensor(bias).clamp(max=0)
    return positive, negative


def gamma_rule(layer, a, after, gamma):
    """The generalised gamma rule: contributions of the output's own sign count 1 + gamma times."""
    a = a.detach().requires_grad_()
    positive, negative = parts(layer, a)
    own, other = (1.0, 0.0) if gamma == math.inf else (1 + gamma, 1.0)
    above = (positive + negative).detach() >= 0
    z = torch.where(above, own * positive + other * negative, other * positive + own * negative)
    factor = torch.where(z == 0, torch.zeros_like(z), after / z).detach()
    return a.detach() * torch.autograd.grad(z, a, factor)[0]


def lrp(net, x, gamma, hidden_gamma=0.0):
    """LRP-gamma in convolutions; the epsilon rule, epsilon 0, in the last layer."""
    values, layers = [x], list(net.children())
    for layer in layers:
        values.append(layer(values[-1]).detach())
    start = torch.zeros_like(values[-1])
    found = start.scatter_(1, TARGET[:, None], values[-1].gather(1, TARGET[:, None]))
    for layer, a in reversed(list(zip(layers, values, strict=False))):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            own = gamma if isinstance(layer, nn.Conv2d) else hidden_gamma
            found = gamma_rule(layer, a, found, 0.0 if layer is layers[-1] else own)
        elif isinstance(layer, nn.AdaptiveAvgPool2d | nn.MaxPool2d | nn.Flatten):
            a = a.requires_grad_()
            out = layer(a)
            factor = torch.where(out == 0, torch.zeros_like(out), found / out).detach()
            found = a.detach() * torch.autograd.grad(out, a, factor)[0]
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_shift_is_lrp_gamma(gamma, norm, seed):
    """Of the folded network: alpha = 1 / (2 + gamma). Images have both signs."""
    net, x = network(seed, norm), images(seed)
    mine = relevance(split(net), x, alpha=1 / (2 + gamma))
    close(mine, lrp(canonize(net), x, gamma))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_outputs_of_either_sign_follow_the_generalised_rule(gamma):
    """Leaky ReLU lets negative outputs through, for which the signs of the rule change places."""
    net, x = network(5, activation=lambda: nn.LeakyReLU(0.3)), images(5)
    mine = relevance(split(net), x, alpha=1 / (2 + gamma))
    close(mine, lrp(canonize(net), x, gamma))


@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_head_alpha_is_the_shift_of_hidden_linear_layers(gamma):
    """The logit of a class starts from itself; above it nothing is to be shared."""
    net, x = network(2), images(2)
    mine = relevance(split(net), x, alpha=0.5, head_alpha=1 / (2 + gamma))
    close(mine, lrp(canonize(net), x, 0.0, gamma))


@pytest.mark.parametrize("kind", ["relu", "relu_in_place", "leaky", "prelu"])
@pytest.mark.parametrize("layer", ["input", "3", "7"])
def test_half_is_gradient_times_activation(kind, layer):
    net, x = network(3, activation=ACTIVATIONS[kind] if kind != "prelu" else nn.PReLU), images(3)
    model = split(net)
    mine = relevance(model, x, layer, alpha=0.5)
    read = model.read(x, TARGET, [layer], streams=["g-h"])[layer]["g-h"]
    close(mine, (read.p - read.n) * read.delta_p)
    for stream, share in (("g", 0.5), ("h", -0.5)):
        close(relevance(model, x, layer, stream, alpha=0.5), share * mine)


# -- conservation --------------------------------------------------------------------------------

ODD = {"softplus", "sigmoid", "lifted"}  # not 0 at 0: a constant, which absorbs


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.act, self.pool = activation(), nn.MaxPool2d(3, 2, padding=1)
        self.last = nn.Conv2d(8, 4, 1, bias=False)
        self.out = activation()

    def forward(self, x):
        x = self.pool(self.act(x - self.conv(x)))
        return self.out(self.last(torch.cat([x, x + self.conv(x)], 1)))


def without_biases(activation, seed=0):
    torch.manual_seed(seed)
    first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4, bias=False)]
    return nn.Sequential(first, activation(), Residual(activation), *head).double().eval()


@pytest.mark.parametrize("alpha", [0.0, 0.3, (0.2, 0.45), "auto", 0.5])
@pytest.mark.parametrize("kind", sorted(ACTIVATIONS.keys() - ODD))
def test_relevance_is_conserved(kind, alpha):
    """For every activation, both forms of pooling, least and literal streams: it sums to f."""
    net, x = without_biases(ACTIVATIONS[kind]), images()
    logit = net(x).gather(1, TARGET[:, None])[:, 0].detach()
    for pool, theta in (("winner", 0.0), ("convex", 0.0), ("winner", 1.0), ("convex", 1.0)):
        model = split(net, x, pool=pool, theta=theta)
        for layer in model.layers:
            if layer.startswith("2."):
                continue  # one branch of several
            total = relevance(model, x, layer, alpha=alpha).flatten(1).sum(1)
            assert (total - logit).abs().max() <= 1e-9 * logit.abs().max(), (layer, pool, theta)


@pytest.mark.parametrize("head_alpha", [0.0, 0.2, 0.5])
def test_g_and_h_start_from_their_evidence_less_the_share_in_common(head_alpha):
    net, x = without_biases(nn.ReLU), images()
    model = split(net, x)
    rows = torch.arange(3)
    g, h = (side(x)[rows, TARGET] for side in (model.g, model.h))
    for stream, own, other in (("g", g, h), ("h", h, g)):
        total = relevance(model, x, stream=stream, alpha=0.3, head_alpha=head_alpha)
        expected = (1 - head_alpha) * own - head_alpha * other
        close(total.flatten(1).sum(1), expected.detach())
    difference = relevance(model, x, alpha=0.3, head_alpha=head_alpha)
    both = [relevance(model, x, stream=s, alpha=0.3, head_alpha=head_alpha) for s in "gh"]
    close(difference, both[0] - both[1])


# -- which shift acts where ----------------------------------------------------------------------


def shifts(model, alpha, backward="relevance", **options):
    config = BackwardConfig(backward, alpha=alpha, **options)
    plan = model._plan(config, ["input"])
    ends = [node for node, rule in plan.rules.items() if rule.nonlinear]
    return [plan.shift(node) for node in (*ends, plan.output)]


def test_a_pair_is_linear_in_depth_and_leaves_the_head_out():
    model = split(network(0), images())
    assert shifts(model, (0.2, 0.4)) == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.5])
    assert shifts(model, (0.2, 0.4), head_alpha=0.1) == pytest.approx([0.2, 0.3, 0.4, 0.1, 0.1])
    assert shifts(model, 0.3) == pytest.approx([0.3, 0.3, 0.3, 0.5, 0.5])


def test_depth_is_that_of_the_longest_path():
    model = split(without_biases(nn.ReLU), images())
    # the stem; what x - conv(x) ends in; the last convolution of the block
    assert shifts(model, (0.1, 0.3)) == pytest.approx([0.1, 0.2, 0.3, 0.5])


def test_only_the_output_is_the_head_of_a_network_without_convolutions():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)]
    model = split(nn.Sequential(*layers).eval())
    assert shifts(model, (0.1, 0.3)) == pytest.approx([0.1, 0.3, 0.5])


def test_shifts_by_layer_name_a_convolution_or_the_activation_after_it():
    net, x = network(1), images(1)
    model = split(net, x)
    by_weights = relevance(model, x, alpha=(("0", 0.1), ("4", 0.2), ("7", 0.3)))
    by_activation = relevance(model, x, alpha=(("2", 0.1), ("6", 0.2), ("8", 0.3)))
    assert torch.equal(by_weights, by_activation)
    close(by_weights, relevance(model, x, alpha=(0.1, 0.3)))
    close(
        relevance(model, x, alpha=(("4", 0.2),)),
        relevance(model, x, alpha=(("1", 0.0), ("6", 0.2))),
    )
    assert shifts(model, (("8", 0.3), ("11", 0.1))) == [0.0, 0.0, 0.3, 0.1, 0.5]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_automatic_shifts_bound_how_contributions_cancel(activation):
    """By 1.75 where pixels are weighed, and in proportion to an input's side; never by more."""
    net, x = network(4, norm=False, activation=activation), images(4)
    model = split(net)
    plan = model._plan(BackwardConfig("relevance", alpha="auto"), ["input"])
    calls = model._forward(plan, x).calls
    ends = [node for node in plan.rules if plan.rules[node].nonlinear]
    a, found = x, []
    for layer in net[:9]:
        if isinstance(layer, nn.Conv2d):
            positive, negative = parts(layer, a)
            side = math.sqrt(81 / a[0, 0].numel())
            found.append((positive - negative, (positive + negative).abs(), 1.75 * side))
        a = layer(a).detach()
    assert len(ends) == 4
    for node, (s, u, bound) in zip(ends[:3], found, strict=True):
        assert calls[node].k == pytest.approx(1 / bound)
        assert ((s + calls[node].k * u) / (u + calls[node].k * s) <= bound).all()
    assert calls[ends[3]].k == 0  # of the head


def automatic(net, x):
    """The bounds by which k is the inverse, of all ends of chains."""
    model = split(net.double().eval())
    plan = model._plan(BackwardConfig("relevance", alpha="auto"), ["input"])
    calls = model._forward(plan, x).calls
    return [1 / calls[node].k for node in plan.rules if plan.rules[node].nonlinear]


def test_resolution_is_that_of_what_is_weighed():
    """Strided convolutions and flattened images weigh pixels; a sum, the finest of its parts."""
    x = torch.rand(1, 2, 8, 8).double()
    strided = [nn.Conv2d(2, 4, 4, stride=4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    assert automatic(nn.Sequential(*strided, *head), x) == pytest.approx([1.75, 4 * 1.75])
    flat = [nn.Flatten(), nn.Linear(128, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)]
    assert automatic(nn.Sequential(*flat), x) == pytest.approx([1.75, 8 * 1.75])
    assert automatic(Uneven(), x) == pytest.approx([1.75, 2 * 1.75, 2 * 1.75])


class Uneven(nn.Module):
    """A branch that is pooled before it is weighed, beside one that is weighed and then pooled."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.beside, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.fine(x)), 2)
        y = nn.functional.avg_pool2d(torch.relu(self.coarse(x)), 2)
        y = self.beside(y) + nn.functional.avg_pool2d(self.coarse(x), 2)
        return self.head(torch.relu(y).mean((2, 3)))


@pytest.mark.parametrize("pixels", [0.1, 1.0, 4.0, 1024.0])
def test_the_automatic_shift_is_in_its_range(pixels):
    """It rises to one half; layers finer than the image add nothing."""
    assert 0 <= automatic_shift(pixels) < 0.5
    assert automatic_shift(pixels) <= automatic_shift(2 * pixels)


def test_no_map_depends_on_the_other_images_of_its_batch():
    net, x = network(6), images(6)
    together = SplitLRP(split(net))(x, TARGET)
    for index in range(3):
        alone = SplitLRP(split(net))(x[index : index + 1], TARGET[index : index + 1])
        close(alone[0], together[index], 1e-5)


# -- the methods ---------------------------------------------------------------------------------


def test_it_is_automatic_by_default_and_a_pair_may_be_a_list():
    net, x = network(0), images()
    model = split(net, x)
    assert torch.equal(SplitLRP(model)(x, TARGET), SplitLRP(model, alpha="auto")(x, TARGET))
    pair = SplitLRP(model, alpha=(0.3, 0.5))(x, TARGET)
    assert torch.equal(SplitLRP(model, alpha=[0.3, 0.5])(x, TARGET), pair)
    assert not torch.equal(SplitLRP(model)(x, TARGET), pair)
    assert torch.equal(SplitLRP(model)(x, TARGET), SplitLRP(model, contrast="mean")(x, TARGET))
    together = explain_together([SplitLRP(model), SplitLRP(model, alpha=(0.3, 0.5))], x, TARGET)
    close(together[1], pair, 1e-6)
    cam = SplitCAM(model, "4", "g", "p", alpha=(0.4, 0.4))(x, TARGET)
    close(cam, SplitCAM(model, "4", "g", "p", alpha=0.4)(x, TARGET), 1e-6)


def test_shifts_that_cannot_be_are_refused():
    model, x = split(network(0)), images()
    for alpha in (0.6, (0.2, 0.7), {"6": -0.1}, "balanced", "least", (0.1, 0.2, 0.3)):
        with pytest.raises(OptionError, match="alpha is "):
            SplitLRP(model, alpha=alpha)(x)
    with pytest.raises(OptionError, match=r"head_alpha is 0.8, not in \[0.0, 0.5\]"):
        SplitLRP(model, head_alpha=0.8)(x)
    with pytest.raises(OptionError, match="alpha is 'auto'"):
        SplitCAM(model, alpha="auto")(x)
    with pytest.raises(UnknownNameError, match="no layer '99'"):
        SplitLRP(model, alpha={"99": 0.2})(x)


def test_one_logit_is_explained_as_it_is():
    """There is no mean to leave out, which is refused only where it is asked for."""
    net, x = network(0), images()
    net[-1] = nn.Linear(6, 1).double()
    model = split(net, x)
    plain = SplitLRP(model)(x, 0)
    assert torch.equal(plain, SplitLRP(model, contrast=False)(x, 0))
    with pytest.raises(TargetError, match="contrast needs two classes"):
        SplitLRP(model, contrast="mean")(x, 0)
