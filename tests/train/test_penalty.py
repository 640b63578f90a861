from functools import partial

import pytest
import torch
from small_pairs import fronted_pair
from torch import nn
from train_problem import Halves, make_task

from dmn.data import ImageBatch
from dmn.errors import DataError, UnknownNameError
from dmn.nn import assert_monotone
from dmn.train import ClassificationTask, ExplanationPenalty
from dmn.train.penalty import evidence


@pytest.fixture
def batch(images):
    masks = torch.zeros_like(images)
    masks[..., 2:5, 1:4] = 1
    return ImageBatch(images, torch.tensor([0, 2, 1, 1, 0]), masks)


def literal(net, batch, layer, stream):
    """Read the maps by the explainers' own way, and compare them with the masks by loops."""
    x, y, masks = batch
    maps = []
    for reading in net.read(x, y, [layer])[layer].values():
        p, n, delta_p, delta_n = reading
        maps.append((p * delta_p).sum(1) + (n * delta_n).sum(1))
    maps = {"g": maps[0], "h": maps[1], "g-h": maps[0] - maps[1]}[stream].clamp(min=0)
    side = 8 // maps.shape[-1]
    missing = []
    for values, mask in zip(maps, masks[:, 0], strict=True):
        inside = sum(
            values[i, j]
            for i in range(len(values))
            for j in range(len(values))
            if mask[i * side : (i + 1) * side, j * side : (j + 1) * side].any()
        )
        missing.append(1 - inside / values.sum() if values.any() else torch.tensor(1.0))
    return torch.stack(missing).mean()


@pytest.mark.parametrize("layer", ["input", "stage1_1", "stage2_1"])
@pytest.mark.parametrize("stream", ["g", "h", "g-h"])
def test_it_is_the_evidence_that_lies_outside_the_mask(pair, batch, layer, stream):
    value = ExplanationPenalty(layer=layer, stream=stream)(pair, batch, batch[0]).detach()
    assert float(value) == pytest.approx(float(literal(pair, batch, layer, stream)), rel=1e-5)


def test_it_reads_behind_a_front_and_teaches_it():
    net = fronted_pair()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    batch = ImageBatch(x, torch.tensor([0, 1, 2]), torch.ones(3, 1, 16, 16))
    for layer in ("front", "stage1_1"):
        maps = evidence(net, *batch[:2], layer, "g")
        read = net.read(*batch[:2], [layer])[layer]["g"]
        expected = (read.p * read.delta_p).sum(1) + (read.n * read.delta_n).sum(1)
        torch.testing.assert_close(maps[:, 0], expected)
    penalty = ExplanationPenalty("sparseness", layer="stage1_1")
    penalty(net, batch, net(x)).backward()
    assert net.front.conv1.weight.grad.abs().max() > 0


def test_of_other_networks_it_is_gradient_times_input(batch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x, y, masks = batch
    product = (x.flatten(1) * net[1].weight[y]).clamp(min=0)
    outside = 1 - (product * masks.flatten(1)).sum(1) / product.sum(1)
    value = ExplanationPenalty()(net, batch, x)
    torch.testing.assert_close(value.double(), outside.mean(), rtol=1e-5, atol=0)


def test_sparseness_needs_no_masks_and_is_0_where_one_pixel_holds_all(batch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    penalty = ExplanationPenalty("sparseness")
    with torch.no_grad():
        net[1].weight.zero_()[:, 5] = 1
    assert float(penalty(net, batch._replace(mask=None), batch[0]).detach()) == pytest.approx(
        0, abs=1e-6
    )
    with torch.no_grad():
        net[1].weight.fill_(1)
    blank = ImageBatch(torch.ones_like(batch.image), batch.label)
    assert float(penalty(net, blank, batch[0]).detach()) == pytest.approx(1)


def test_gradients_reach_the_weights_and_nothing_else_changes(pair, batch):
    pair.train()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    ExplanationPenalty(layer="stage1_1")(pair, batch, batch[0]).backward()
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert all(module.training for module in pair.modules())
    assert pair.g.net.stem.conv.weight.grad.abs().sum() > 0
    assert pair.g.net.head.weight.grad.abs().sum() > 0
    assert pair.h.net.head.weight.grad is None  # of g alone


def test_it_is_computed_in_float32_and_of_the_first_images(pair, batch):
    pair = pair.float()
    few = ImageBatch(batch.image[:3].float(), batch.label[:3], batch.mask[:3].float())
    plain = ExplanationPenalty(layer="stage1_1")(pair, few, few[0])
    half = ExplanationPenalty(layer="stage1_1", share=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        doubled = ImageBatch(*(torch.cat([values, values.flip(0)]) for values in few))
        assert torch.equal(half(pair, doubled, doubled[0]), plain)


def test_training_with_it_moves_evidence_into_the_mask_and_keeps_the_constraint(make_trainer):
    left = []
    for weight in (0.0, 3.0):
        terms = {"outside": ExplanationPenalty("mask", weight, "stage1_1")}
        adam = partial(torch.optim.Adam, lr=0.05)
        task = ClassificationTask(make_task().net, adam, num_classes=2, terms=terms)
        trainer = make_trainer(max_epochs=4)
        trainer.fit(task, Halves())
        left.append(float(trainer.callback_metrics["train/outside"]))
        assert_monotone(task)
    assert left[1] < 0.8 * left[0]


def test_data_without_masks_and_unknown_layers_are_named(pair, batch):
    with pytest.raises(DataError, match=r"dmn\.data\.MNIST and Scenes .*'sparseness'"):
        ExplanationPenalty()(pair, batch._replace(mask=None), batch[0])
    with pytest.raises(UnknownNameError, match="no layer 'nose'; there are input, stem"):
        ExplanationPenalty(layer="nose")(pair, batch, batch[0])
    with pytest.raises(UnknownNameError, match="layer 'head' holds no image"):
        ExplanationPenalty(layer="head")(pair, batch, batch[0])
    with pytest.raises(UnknownNameError, match="no layer 'nose'; there are input, 0"):
        ExplanationPenalty(layer="nose")(nn.Sequential(nn.Flatten()), batch, batch[0])
