"""AttnLRP divides relevance as its paper defines, rule by rule and through whole networks."""

import pytest
import torch
import torch.nn.functional as F
from literal_attnlrp import attnlrp
from rival_networks import made, vgg
from torch import nn
from torchvision.models import VisionTransformer
from vision_transformers import CLASSES, randomised, timm_vit, torchvision_vit

from dmn.baselines import AttentionRollout, AttnLRP, GradientAttentionRollout, LRPGamma
from dmn.canonize import canonize
from dmn.errors import OptionError, UnsupportedError

pytest.importorskip("timm")

SIZES = {torchvision_vit: (16, 16), timm_vit: (16, 24)}
EPSILON = {"conv_gamma": 0, "linear_gamma": 0}
GAMMAS = [(0, 0), (0.25, 0), (0, 0.05), (0.25, 0.05), (1, 1)]


def images(*shape, seed=1):
    torch.manual_seed(seed)
    return torch.rand(*shape, dtype=torch.float64)


def relevance(net, x, target=0, **options):
    return AttnLRP(net.double(), **EPSILON, **options)(x, target)


# -- whole networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("conv_gamma", "linear_gamma"), GAMMAS)
@pytest.mark.parametrize("network", SIZES, ids=lambda network: network.__name__)
def test_whole_networks_follow_the_rules_of_the_paper(network, conv_gamma, linear_gamma, constant):
    model, x = network(), images(2, 3, *SIZES[network])
    softmax = "constant" if constant else "taylor"
    explainer = AttnLRP(model, conv_gamma=conv_gamma, linear_gamma=linear_gamma, softmax=softmax)
    maps = []
    for target in range(CLASSES):
        expected = attnlrp(model, x, target, conv_gamma, linear_gamma, constant).detach().float()
        maps.append(explainer(x, target))
        size = float(expected.abs().max())
        torch.testing.assert_close(maps[-1], expected, rtol=1e-5, atol=1e-6 * size)
    assert not torch.allclose(maps[0], maps[1], rtol=0.1)


@pytest.mark.parametrize(("conv_gamma", "linear_gamma"), GAMMAS)
def test_relevance_is_conserved_without_biases_where_softmax_is_constant(conv_gamma, linear_gamma):
    """A position or a class token that is learnt is a bias, too."""
    model = torchvision_vit()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "token" in name or "embedding" in name:
                parameter.zero_()
    x = images(2, 3, 16, 16)
    gammas = {"conv_gamma": conv_gamma, "linear_gamma": linear_gamma}
    for target in range(CLASSES):
        total = AttnLRP(model, **gammas, softmax="constant")(x, target).sum(dim=(1, 2, 3))
        torch.testing.assert_close(total, model(x)[:, target].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_on_convolutions_it_is_lrp_gamma(gamma):
    """As zennit computes it, up to what stabilises its denominators."""
    model, x = canonize(made(vgg())), images(2, 1, 8, 8)
    expected = LRPGamma(model, gamma=gamma)(x, 1)
    maps = AttnLRP(model, conv_gamma=gamma, linear_gamma=0)(x, 1)
    assert float((maps - expected).abs().max() / expected.abs().max()) < 1e-3


def test_contrast_takes_the_forms_of_lrp():
    model, x = torchvision_vit(), images(2, 3, 16, 16)
    plain = [AttnLRP(model)(x, target) for target in range(CLASSES)]
    total = AttnLRP(model, contrast="mean")(x, 1)
    torch.testing.assert_close(total, plain[1] - sum(plain) / CLASSES, rtol=1e-4, atol=1e-6)
    assert AttnLRP(model, contrast=True)(x, 1).abs().sum(dim=(1, 2, 3)).max() <= 2 + 1e-6


# -- single rules --------------------------------------------------------------------------------


class Products(nn.Module):
    """Multiplies activations in one of the ways that networks write."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        a, b = x.flatten(1)[:, :4].view(-1, 2, 2), x.flatten(1)[:, 4:].view(-1, 2, 2)
        return self.form(a, b).flatten(1)


FORMS = {
    "mul": (lambda a, b: a * b, lambda a, b: a * b),
    "matmul": (lambda a, b: a @ b, lambda a, b: a @ b),
    "bmm": (torch.bmm, torch.bmm),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), lambda a, b: a @ b),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_factor_gets_half(form):
    written, product = FORMS[form]
    x = images(3, 1, 2, 4)
    a, b = (part.requires_grad_() for part in x.flatten(1).view(-1, 2, 2, 2).unbind(1))
    of_a, of_b = torch.autograd.grad(product(a, b).flatten(1)[:, 1].sum(), (a, b))
    expected = torch.cat([(a * of_a / 2).flatten(1), (b * of_b / 2).flatten(1)], dim=1)
    maps = relevance(Products(written), x, 1)
    torch.testing.assert_close(maps.flatten(1), expected.detach().float(), rtol=1e-6, atol=1e-8)


def test_of_a_quotient_the_numerator_gets_all():
    x = images(3, 1, 2, 4) + 0.5
    maps = relevance(Products(lambda a, b: a / b), x, 1).flatten(1)
    assert torch.equal(maps.count_nonzero(dim=1), torch.ones(3, dtype=torch.long))
    expected = x.flatten(1)[:, 1] / x.flatten(1)[:, 5]
    torch.testing.assert_close(maps[:, 1], expected.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "function", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Softplus()]
)
def test_elementwise_functions_pass_relevance_on(function):
    """All but their value at 0, which is a bias."""
    x = images(3, 1, 2, 4) - 0.5
    x[0, 0, 0, 1] = 0
    maps = relevance(nn.Sequential(function, nn.Flatten()), x, 1).flatten(1)
    expected = torch.zeros_like(maps)
    expected[:, 1] = (function(x) - function(torch.zeros_like(x))).flatten(1)[:, 1].float()
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-8)


def explicit_rms_norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


NORMS = {
    "layer norm": (nn.LayerNorm(4), lambda x: x.std(-1, correction=0, keepdim=True), True),
    "rms norm": (nn.RMSNorm(4), lambda x: x.square().mean(-1, keepdim=True).sqrt(), False),
    "unit length": (F.normalize, lambda x: x.norm(dim=1, keepdim=True), False),
    "group norm": (
        nn.GroupNorm(1, 1),
        lambda x: x.flatten(1).std(1, correction=0)[:, None, None, None],
        True,
    ),
    "instance norm": (
        nn.InstanceNorm2d(1),
        lambda x: x.flatten(1).std(1, correction=0)[:, None, None, None],
        True,
    ),
    "rms norm, written out": (
        explicit_rms_norm,
        lambda x: x.square().mean(-1, keepdim=True).sqrt(),
        False,
    ),
}


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x).flatten(1)


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_linear_with_their_divisor_held(name):
    norm, divisor, centred = NORMS[name]
    x = (100 * images(3, 1, 2, 4)).requires_grad_()  # next to which epsilon is nothing
    axes = (1, 2, 3) if name in ("group norm", "instance norm") else (3,)
    y = (x - x.mean(axes, keepdim=True) if centred else x) / divisor(x).detach()
    expected = x * torch.autograd.grad(y.flatten(1)[:, 2].sum(), x)[0]
    maps = relevance(Normed(norm), x.detach(), 2)
    torch.testing.assert_close(maps, expected.detach().float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softmax", ["taylor", "constant"])
def test_a_softmax_outside_attention_always_has_its_rule(softmax):
    x = images(3, 1, 1, 5)
    same = nn.Linear(5, 5, bias=False)
    nn.init.eye_(same.weight)
    maps = relevance(nn.Sequential(nn.Flatten(), nn.Softmax(1), same), x, 2, softmax=softmax)
    s = x.flatten(1).softmax(dim=1)
    start = torch.zeros_like(s)
    start[:, 2] = s[:, 2]
    taylor = x.flatten(1) * (start - s * start.sum(dim=1, keepdim=True))
    torch.testing.assert_close(maps.flatten(1), taylor.float(), rtol=1e-5, atol=1e-8)


# -- what networks are taken ---------------------------------------------------------------------

TIMM = {
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (1, 1), "num_heads": (1, 2)},
    "xcit_nano_12_p16_224": {"img_size": 64, "depth": 1},
    "cait_xxs24_224": {"img_size": 64, "depth": 1},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 1},
    "samvit_base_patch16_224": {"img_size": 64, "depth": 1, "embed_dim": 24, "num_heads": 2},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "efficientnet_b0": {},
}


@pytest.mark.parametrize("name", TIMM)
def test_it_explains_what_is_no_plain_transformer(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **TIMM[name]).eval()
    size = TIMM[name].get("img_size", 64)
    x = torch.rand(2, 3, size, size)
    explainer = AttnLRP(model)
    maps = explainer(x, 1)
    assert maps.isfinite().all()
    assert maps.flatten(1).count_nonzero(dim=1).min() > size
    assert torch.equal(explainer.network(x), explainer.network(x))
    torch.testing.assert_close(explainer.network(x), model(x), rtol=1e-4, atol=1e-5)


HUGGING_FACE = {
    "ViT": {"intermediate_size": 16},
    "DeiT": {"intermediate_size": 16},
    "Dinov2WithRegisters": {"mlp_ratio": 2},
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_transformers_of_hugging_face_are_explained_by_all(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(
        image_size=16, patch_size=4, num_labels=CLASSES, **sizes, **HUGGING_FACE[name]
    )
    model = getattr(transformers, f"{name}ForImageClassification")(config).double().eval()
    x = images(2, 3, 16, 16)
    for method in (AttentionRollout, GradientAttentionRollout, AttnLRP):
        maps = method(model)(x, 1)
        assert maps.shape == (2, 1, 16, 16)
        assert maps.isfinite().all()
        assert (maps.flatten(1).std(dim=1) > 0).all()


def test_operations_without_a_rule_are_listed():
    class Squared(nn.Module):
        def forward(self, x):
            return x.flatten(1).exp() + x.flatten(1).cumsum(1)

    with pytest.raises(UnsupportedError, match="explain Squared by AttnLRP: 2 of its") as refusal:
        AttnLRP(Squared())
    assert [node.path for node in refusal.value.nodes] == ["exp (exp)", "cumsum (cumsum)"]


def test_masks_of_attention_are_kept():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.register_buffer("mask", torch.ones(3, 3, dtype=torch.bool).triu(1))

        def forward(self, x):
            tokens = x.squeeze(1)
            out, _ = self.attention(tokens, tokens, tokens, attn_mask=self.mask)
            return out[:, 1]

    maps = relevance(randomised(Net()), images(2, 1, 3, 4))
    assert maps[:, 0, 2].count_nonzero() == 0
    assert maps[:, 0, :2].count_nonzero() == 16


def test_options_are_checked():
    model = VisionTransformer(16, 4, 1, 2, 8, 16, num_classes=CLASSES)
    for gamma in (-1, float("nan"), "0.25", True):
        with pytest.raises(OptionError, match=r"conv_gamma is .*; give a number from 0 on"):
            AttnLRP(model, conv_gamma=gamma)
    with pytest.raises(OptionError, match="softmax is 'held'; give taylor or constant"):
        AttnLRP(model, softmax="held")
