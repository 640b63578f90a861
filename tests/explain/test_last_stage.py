import pytest
import torch
from small_pairs import tiny_pair
from torchvision.models import squeezenet1_1

from dmn.explain.layers import last_stage
from dmn.models import MonotoneMLP, PlainCNN, ResNet18
from dmn.posthoc import split


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


def test_of_pairs_and_of_networks_without_convolutions():
    pair = tiny_pair()
    layer = last_stage(pair, torch.rand(1, 1, 8, 8, dtype=torch.float64))
    assert layer == "h.net.stage2_1"
    assert layer.removeprefix("h.net.") in pair.layers
    assert last_stage(MonotoneMLP(4, (3,)), torch.rand(2, 1, 2, 2)) == "input"
