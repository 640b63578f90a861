import pytest
import torch
from small_pairs import fronted_pair
from torch import nn

from dmn.data import ImageBatch
from dmn.errors import OptionError, UnknownNameError, UnsupportedError
from dmn.explain import SplitCAM
from dmn.split import FrontAdapter
from dmn.train import SensitivityPenalty


@pytest.fixture
def batch():
    x = torch.rand(5, 3, 16, 16, dtype=torch.float64)
    return ImageBatch(x, torch.tensor([0, 1, 2, 0, 1]), None)


def literal(net, x, noisy, labels, layer, stream, part):
    """Explain each image and its noisy one by the explainer of the package, one at a time."""
    explainer = SplitCAM(FrontAdapter(net), layer, stream, part, contrast=True)
    changes = []
    for image, other, label in zip(x, noisy, labels, strict=True):
        clean, moved = (explainer(i[None], label)[0, 0].flatten().tolist() for i in (image, other))
        squared = sum((a - b) ** 2 for a, b in zip(clean, moved, strict=True))
        changes.append((squared / sum(a**2 for a in clean)) ** 0.5)
    return sum(changes) / len(changes)


@pytest.mark.parametrize(
    ("layer", "stream", "part"),
    [("front", "g", "p"), ("front", "g-h", "p+n"), ("stage1_1", "h", "p+n")],
)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_it_is_the_relative_change_of_the_map_under_noise(batch, layer, stream, part, share):
    net = fronted_pair()
    penalty = SensitivityPenalty(1.0, 0.3, layer, stream, part, share=share)
    torch.manual_seed(1)
    value = penalty(net, batch, batch.image).item()
    count = 5 if share == 1 else 3
    torch.manual_seed(1)
    x = batch.image[:count]
    noisy = x + torch.empty_like(x).uniform_(-0.3, 0.3)
    expected = literal(net, x, noisy, batch.label.tolist()[:count], layer, stream, part)
    assert value == pytest.approx(expected, rel=1e-4)


def test_training_by_it_makes_maps_stable(batch):
    torch.manual_seed(0)
    net = fronted_pair().train()
    penalty = SensitivityPenalty(layer="front", part="p")
    statistics = {name: value.clone() for name, value in net.named_buffers()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = penalty(net, batch, batch.image)
        value.backward()
        values.append(value.item())
        optimizer.step()
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    assert net.front.training
    for name, value in net.named_buffers():
        assert torch.equal(value, statistics[name]), name


def test_what_it_cannot_read_is_refused(batch):
    for noise in (0.0, -0.1, float("nan")):
        with pytest.raises(OptionError, match=f"noise is {noise}; give a number above 0"):
            SensitivityPenalty(noise=noise)
    with pytest.raises(UnsupportedError, match="Flatten is none"):
        SensitivityPenalty()(nn.Flatten(), batch, batch.image)
    with pytest.raises(UnknownNameError, match="no layer 'nowhere'; there are front"):
        SensitivityPenalty(layer="nowhere")(fronted_pair(), batch, batch.image)
