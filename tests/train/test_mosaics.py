import pytest
import torch
from small_pairs import fronted_pair
from torch import nn

from dmn.data import ImageBatch
from dmn.errors import UnknownNameError, UnsupportedError
from dmn.explain import SplitCAM
from dmn.models import DifferenceOfMonotone, MonotoneMLP
from dmn.split import FrontAdapter
from dmn.train import MosaicPenalty


@pytest.fixture
def batch():
    x = torch.rand(9, 3, 16, 16, dtype=torch.float64)
    return ImageBatch(x, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]), None)


def literal(net, batch, layer, stream, part):
    """Explain each mosaic by the explainer of the package, and sum over its pixels by loops."""
    explainer = SplitCAM(FrontAdapter(net), layer, stream, part, contrast=True)
    outside = []
    for first in (0, 4):
        tiles, labels = batch.image[first : first + 4], batch.label[first : first + 4].tolist()
        top, bottom = torch.cat(list(tiles[:2]), dim=2), torch.cat(list(tiles[2:]), dim=2)
        values = explainer(torch.cat([top, bottom], dim=1)[None], labels[0])[0, 0]
        inside = total = 0.0
        for i in range(32):
            for j in range(32):
                evidence = max(float(values[i, j]), 0)
                total += evidence
                inside += evidence * (labels[2 * (i // 16) + j // 16] == labels[0])
        outside.append(1 - inside / total)
    return sum(outside) / len(outside)


@pytest.mark.parametrize("layer", ["front", "stage1_1"])
@pytest.mark.parametrize(("stream", "part"), [("g", "p"), ("h", "p+n"), ("g-h", "p+n")])
def test_it_is_the_evidence_in_tiles_of_other_classes(batch, layer, stream, part):
    part = "p+n" if layer != "front" else part
    net = fronted_pair()
    value = MosaicPenalty(1.0, layer, stream, part)(net, batch, batch.image).item()
    assert value == pytest.approx(literal(net, batch, layer, stream, part), rel=1e-4)


def test_a_share_of_the_batch_makes_whole_mosaics_and_at_least_one(batch):
    net = fronted_pair()
    one = MosaicPenalty(layer="front")(
        net, ImageBatch(*(v[:4] for v in batch[:2]), None), batch[0][:4]
    )
    for share in (0.01, 0.5, 0.75):
        value = MosaicPenalty(layer="front", share=share)(net, batch, batch.image)
        assert value.item() == pytest.approx(one.item(), rel=1e-5)
    few = ImageBatch(batch.image[:3], batch.label[:3], None)
    assert MosaicPenalty(layer="front")(net, few, few.image).item() == 0


def test_a_mosaic_of_one_class_is_right_everywhere(batch):
    same = batch._replace(label=torch.ones_like(batch.label))
    value = MosaicPenalty(layer="front")(fronted_pair(), same, batch.image)
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_training_by_it_moves_evidence_into_the_right_tile(batch):
    torch.manual_seed(0)
    net = fronted_pair().train()
    penalty = MosaicPenalty(layer="front", stream="g-h")
    statistics = {name: value.clone() for name, value in net.named_buffers()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = penalty(net, batch, batch.image)
        value.backward()
        values.append(value.item())
        optimizer.step()
    assert values[-1] < values[0] - 0.05
    assert net.front.training
    for name, value in net.named_buffers():
        assert torch.equal(value, statistics[name]), name


def test_what_it_cannot_read_is_refused(batch):
    with pytest.raises(UnsupportedError, match="Flatten is none"):
        MosaicPenalty()(nn.Flatten(), batch, batch.image)
    with pytest.raises(UnknownNameError, match="no layer 'nowhere'; there are front"):
        MosaicPenalty(layer="nowhere")(fronted_pair(), batch, batch.image)
    g, h = (MonotoneMLP(2 * 3 * 16 * 16, hidden=(4,), num_classes=3) for _ in range(2))
    with pytest.raises(UnsupportedError, match="no mosaics of 32 x 32 pixels"):
        MosaicPenalty()(DifferenceOfMonotone(g, h, margin=0).double(), batch, batch.image)
