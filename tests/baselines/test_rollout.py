"""Attention rollout and its form weighted by gradients are what their papers define."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from vision_transformers import CLASSES, forward, timm_vit, torchvision_vit

from dmn.baselines import AttentionRollout, AttnLRP, GradientAttentionRollout
from dmn.errors import OptionError, UnsupportedError

timm = pytest.importorskip("timm")

NETWORKS = {
    "torchvision": torchvision_vit,
    "class token": timm_vit,
    "mean of patches": lambda: timm_vit(class_token=False, global_pool="avg"),
    "class token, mean of patches": lambda: timm_vit(global_pool="avg"),
    "registers": lambda: timm_vit(reg_tokens=3, no_embed_class=True),
}
METHODS = (AttentionRollout, GradientAttentionRollout)
EVERY = pytest.mark.parametrize("network", NETWORKS)


def images(network, count=3):
    torch.manual_seed(1)
    size = (16, 16) if network == "torchvision" else (16, 24)
    return torch.rand(count, 3, *size, dtype=torch.float64)


def shown(network, x, rolled):
    """Return the map of (B, N, N), how much each token takes of each token of the image."""
    rows = {"mean of patches": slice(0, None), "class token, mean of patches": slice(1, None)}
    taken = rolled[:, rows.get(network, slice(0, 1))].mean(dim=1)
    h, w = (4, 4) if network == "torchvision" else (2, 3)
    grid = taken[:, taken.shape[1] - h * w :].view(len(x), 1, h, w)
    return F.interpolate(grid, x.shape[2:], mode="bilinear").float()


def rollout(weights, fuse, discarded):
    """Multiply 0.5 A + 0.5 I from the first layer to the last, image by image."""
    products = []
    for image in range(len(weights[0])):
        product = torch.eye(weights[0].shape[-1], dtype=torch.float64)
        for layer in weights:
            a = fuse(layer[image].detach())
            for place in a.flatten().argsort()[:discarded]:
                a.view(-1)[place] = 0
            a = 0.5 * a + 0.5 * torch.eye(len(a), dtype=torch.float64)
            product = a / a.sum(dim=1, keepdim=True) @ product
        products.append(product)
    return torch.stack(products)


@EVERY
def test_the_forward_of_these_tests_is_that_of_the_network(network):
    model, x = NETWORKS[network](), images(network)
    torch.testing.assert_close(forward(model, x)[0], model(x), rtol=1e-12, atol=1e-12)


@EVERY
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_rollout_is_the_product_of_the_layers(network, fusion):
    model, x = NETWORKS[network](), images(network)
    fuse = {"mean": lambda a: a.mean(0), "max": lambda a: a.amax(0), "min": lambda a: a.amin(0)}
    expected = shown(network, x, rollout(forward(model, x)[1], fuse[fusion], 0))
    maps = AttentionRollout(model, head_fusion=fusion)(x)
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-9)


def test_the_smallest_weights_are_discarded():
    model, x = timm_vit(), images("class token")
    weights = forward(model, x)[1]
    expected = shown("class token", x, rollout(weights, lambda a: a.mean(0), int(0.4 * 49)))
    maps = AttentionRollout(model, discard_ratio=0.4)(x)
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(maps, AttentionRollout(model)(x), rtol=0.01)


@EVERY
@pytest.mark.parametrize("contrast", [False, True])
def test_gradient_rollout_adds_up_the_positive_products(network, contrast):
    model, x = NETWORKS[network](), images(network)
    logits, weights = forward(model, x)
    scores = logits - logits.mean(dim=1, keepdim=True) if contrast else logits
    maps = []
    for target in range(CLASSES):
        gradients = torch.autograd.grad(scores[:, target].sum(), weights, retain_graph=True)
        identity = torch.eye(weights[0].shape[-1], dtype=torch.float64)
        relevance = identity.repeat(len(x), 1, 1)
        for layer, gradient in zip(weights, gradients, strict=True):
            positive = torch.where(layer * gradient > 0, layer * gradient, 0)
            mean = sum(positive[:, head] for head in range(positive.shape[1])) / layer.shape[1]
            relevance = relevance + torch.einsum("bij,bjk->bik", mean, relevance)
        explainer = GradientAttentionRollout(model, contrast=contrast)
        maps.append(explainer(x, target))
        expected = shown(network, x, (relevance - identity).detach())
        torch.testing.assert_close(maps[-1], expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(maps[0], maps[1], rtol=0.05)


def test_rollout_is_the_same_for_every_class():
    model, x = timm_vit(), images("class token")
    maps = [AttentionRollout(model)(x, target) for target in range(CLASSES)]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("method", METHODS)
def test_explainers_keep_their_promises(method):
    model, x = torchvision_vit().train(), images("torchvision")
    explainer = method(model)
    with torch.inference_mode():
        maps = explainer(x.clone(), [0, 1, 2])
    assert maps.shape == (3, 1, 16, 16)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    alone = [explainer(image[None], index) for index, image in enumerate(x)]
    torch.testing.assert_close(torch.cat(alone), maps, rtol=1e-6, atol=1e-9)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", [*METHODS, AttnLRP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_networks_of_any_floating_type_are_explained(method, dtype):
    x = images("torchvision")
    exact = method(torchvision_vit())(x, 1).flatten(1)
    maps = method(torchvision_vit().to(dtype))(x.to(dtype), 1).flatten(1)
    assert maps.dtype == torch.float32
    assert F.cosine_similarity(maps, exact).min() > (0.9999 if dtype == torch.float32 else 0.95)


@pytest.mark.parametrize("method", METHODS)
def test_tokens_may_come_before_the_batch(method):
    """As in `nn.TransformerEncoderLayer` by default; the number of images may be that of tokens."""

    class Net(nn.Module):
        def __init__(self, batch_first):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
            self.head = nn.Linear(8, CLASSES)
            self.batch_first = batch_first

        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            tokens = tokens if self.batch_first else tokens.transpose(0, 1)
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return self.head(tokens.mean(dim=1 if self.batch_first else 0))

    torch.manual_seed(0)
    first, second = Net(True).double(), Net(False).double()
    second.load_state_dict(first.state_dict())
    for count in (2, 4):
        x = images("torchvision", count)
        torch.testing.assert_close(method(first)(x, 1), method(second)(x, 1), rtol=1e-6, atol=1e-9)


# -- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "swin_tiny_patch4_window7_224": (
        {"img_size": 56, "depths": (1, 1), "num_heads": (1, 2), "embed_dim": 8},
        r"layers\.0\.blocks\.0\.attn.*attends within windows",
    ),
    "xcit_nano_12_p16_224": (
        {"img_size": 64, "depth": 1},
        r"blocks\.0\.attn\.softmax.*over channels",
    ),
    "cait_xxs24_224": (
        {"img_size": 64, "depth": 1},
        r"blocks_token_only\.0\.attn.*attends from other tokens than it attends to",
    ),
    "resnet10t": ({}, "cannot explain ResNet, which has no attention"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", REFUSED)
def test_other_attention_is_refused_by_the_name_of_its_layer(method, name):
    options, message = REFUSED[name]
    model = timm.create_model(name, **options).eval()
    size = options.get("img_size", 64)
    with pytest.raises(UnsupportedError, match=f"{message}.*; explain it by AttnLRP, GradCAM"):
        method(model)(torch.rand(2, 3, size, size))


def test_options_are_checked():
    model = torchvision_vit()
    with pytest.raises(OptionError, match=r"same for every class.*GradientAttentionRollout"):
        AttentionRollout(model, contrast=True)
    with pytest.raises(OptionError, match="head_fusion is 'sum'; give mean, max or min"):
        AttentionRollout(model, head_fusion="sum")
    for ratio in (-0.1, 1):
        with pytest.raises(OptionError, match="discard_ratio"):
            AttentionRollout(model, discard_ratio=ratio)
