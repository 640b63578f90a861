import pytest
import torch
from small_pairs import tiny_pair
from small_transformers import vit
from torch import nn
from torch.nn.utils import parametrize
from torchvision.models import VisionTransformer, get_model, squeezenet1_1
from torchvision.ops import Permute

from dmn.baselines import GradCAM, GradCAMpp, LayerCAM
from dmn.errors import UnknownNameError
from dmn.explain.layers import last_stage
from dmn.models import MonotoneMLP, PlainCNN, ResNet18
from dmn.split import split


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: ResNet18(width=4), "layer4"),
        (lambda: PlainCNN(3, (2, 3)), "stage2.activation"),
        (squeezenet1_1, "classifier.2"),
    ],
    ids=["resnet", "plain", "squeezenet"],
)
def test_it_is_the_last_before_images_shrink(make, layer):
    model = make().train()
    x = torch.rand(1, 3, 64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert last_stage(model, x) == layer
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert layer in split(model.eval(), x).layers


class Tokens(nn.Module):
    """A small ViT, whose places are tokens from the second layer on."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.block(self.patches(x).flatten(2).mT)[:, 0])


class ChannelsLast(nn.Module):
    """A small Swin: its places come before its channels, until they are turned."""

    def __init__(self, turned=True):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Permute([0, 2, 3, 1]))
        self.block = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.norm = nn.LayerNorm(8)
        self.turn = Permute([0, 3, 1, 2]) if turned else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1) if turned else nn.Flatten(1, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.turn(self.norm(self.block(self.patches(x)))))
        return self.head(x.flatten(1) if isinstance(self.pool, nn.AdaptiveAvgPool2d) else x.mean(1))


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("vgg11", "features.19", (512, 4, 4)),
        ("densenet121", "features", (1024, 2, 2)),
        ("efficientnet_b0", "features", (1280, 2, 2)),
        ("convnext_tiny", "features", (768, 2, 2)),
        ("swin_t", "permute", (768, 2, 2)),
        ("googlenet", "inception5b", (1024, 2, 2)),
        ("mobilenet_v3_small", "features", (576, 2, 2)),
        ("regnet_y_400mf", "trunk_output", (440, 2, 2)),
    ],
)
def test_it_is_the_end_of_known_networks(name, layer, size):
    options = {"init_weights": False} if name == "googlenet" else {}
    model, x, seen = get_model(name, weights=None, **options).eval(), torch.rand(1, 3, 64, 64), []
    assert last_stage(model, x) == layer
    with model.get_submodule(layer).register_forward_hook(lambda *it: seen.append(it[-1].shape)):
        model(x)
    assert seen == [(1, *size)]


@pytest.mark.parametrize("reads", ["class token", "mean"])
def test_tokens_are_read_where_the_head_still_sees_them(reads):
    """After the last attention, a head that reads the class token does not."""
    model, x = vit(reads), torch.rand(1, 3, 16, 24)
    layer = last_stage(model, x)
    assert layer == {"class token": "blocks.1.norm1", "mean": "norm"}[reads]
    nn.init.zeros_(model.head.weight)  # as before training
    assert last_stage(model, x) == layer
    maps = GradCAM(vit(reads), layer)(x.expand(5, -1, -1, -1), torch.arange(5))
    assert maps.shape == (5, 1, 16, 24)
    assert maps.max() > 0


def test_the_first_patch_may_be_what_the_head_reads():
    model, x = Tokens().eval(), torch.rand(1, 3, 16, 16)
    assert last_stage(model, x) == "block"
    assert GradCAM(model, "block.norm1")(x).shape == (1, 1, 16, 16)


def test_the_usual_layer_of_a_vision_transformer():
    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)  # its head starts at 0
    assert last_stage(model, torch.rand(1, 3, 32, 32)) == "encoder.layers.encoder_layer_1.ln_1"


@pytest.mark.parametrize("method", [GradCAM, GradCAMpp, LayerCAM])
def test_channels_last_are_turned(method):
    x, model = torch.rand(5, 3, 24, 16), ChannelsLast().eval()
    targets = torch.arange(5)
    assert last_stage(model, x) == "turn"
    maps = method(model, "turn")(x, targets)
    assert maps.shape == (5, 1, 24, 16)
    assert maps.max() > 0
    assert torch.equal(method(model, "norm")(x, targets), maps)
    odd = ChannelsLast(turned=False).eval()
    odd.load_state_dict(model.state_dict())
    assert last_stage(odd, x) == "turn"
    assert torch.allclose(method(odd, "turn")(x, targets), maps, atol=1e-6)


def test_layers_without_one_tensor_are_told():
    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    attention = "encoder.layers.encoder_layer_1.self_attention"
    with pytest.raises(UnknownNameError, match="or returns no single tensor; name another"):
        GradCAM(model, attention)(torch.rand(1, 3, 32, 32))


def test_a_single_place_is_none():
    """A map of one pixel is constant; the last stage is then where there still were several."""
    model = ResNet18(width=4)
    assert last_stage(model, torch.rand(1, 3, 64, 64)) == "layer4"
    layers = [nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 4, 2, 2), nn.ReLU(), nn.Flatten()]
    small = nn.Sequential(*layers, nn.Linear(4, 2))
    assert last_stage(small, torch.rand(1, 3, 4, 4)) == "1"


def test_weights_may_be_parametrised():
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(64, 2))
    for layer in layers[:2]:
        parametrize.register_parametrization(layer, "weight", nn.Softplus())
    assert last_stage(model, torch.rand(1, 3, 8, 8)) == "1"


def test_of_pairs_and_of_networks_without_convolutions():
    pair = tiny_pair()
    layer = last_stage(pair, torch.rand(1, 1, 8, 8, dtype=torch.float64))
    assert layer == "h.net.stage2_1"
    assert layer.removeprefix("h.net.") in pair.layers
    assert last_stage(MonotoneMLP(4, (3,)), torch.rand(2, 1, 2, 2)) == "input"
