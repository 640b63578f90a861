from functools import partial

import pytest
import torch
from small_pairs import fronted_pair
from torch import nn
from train_problem import Halves, make_task

from dmn.models import DifferenceOfMonotone, MonotoneConvNet, MonotoneMLP
from dmn.models.ordinary import PlainCNN, ResNet18
from dmn.train import ClassificationTask, OneCycle, layer_names, layerwise

NETS = {
    "pair": lambda: make_task().net,
    "reparametrised": lambda: make_task(constraint="square").net,
    "uneven pair": lambda: DifferenceOfMonotone(
        MonotoneConvNet(2, (4, 4), 1, grid=2), MonotoneConvNet(2, (4,), 1, grid=2)
    ),
    "pair with a front": fronted_pair,
    "mlp": lambda: MonotoneMLP(8, (4,)),
    "plain": PlainCNN,
    "resnet": partial(ResNet18, width=8),
    "norm first": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_every_parameter_and_buffer_is_in_one_layer(make):
    net = make()
    modules = dict(net.named_modules())
    held = [
        f"{name}.{key}"
        for names in layer_names(net)
        for name in names
        for tensors in (modules[name].named_parameters, modules[name].named_buffers)
        for key, _ in tensors(recurse=False)
    ]
    assert sorted(held) == sorted(net.state_dict())


def test_layers_are_in_order_with_their_norms():
    assert layer_names(PlainCNN()) == [
        *([f"stage{k}.conv", f"stage{k}.norm"] for k in (1, 2, 3)),
        ["head"],
    ]


def test_g_and_h_are_side_by_side_from_the_head():
    names = layer_names(make_task().net)
    assert names[-1] == ["g.net.head", "h.net.head"]
    assert names[0] == [f"{side}.net.stem.{kind}" for side in "gh" for kind in ("conv", "norm")]
    uneven = layer_names(NETS["uneven pair"]())
    assert uneven[-1] == ["g.net.head", "h.net.head"]
    assert uneven[0] == ["g.net.stem.conv", "g.net.stem.norm"]  # h has no layer so deep
    assert uneven[1][-2:] == ["h.net.stem.conv", "h.net.stem.norm"]


def test_a_front_lies_below_both():
    names = layer_names(fronted_pair())
    assert names[0] == ["front.conv1", "front.bn1"]
    assert names[5][0] == "g.net.stem.conv"


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_rates_fall_by_the_layer_and_are_the_full_one_at_the_head(make):
    net = make()
    optimizer = layerwise(partial(torch.optim.Adam, lr=0.1), net, 0.5)
    layers = layer_names(net)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == set(net.parameters())
    for above, names in enumerate(reversed(layers)):
        for name in names:
            for parameter in net.get_submodule(name).parameters(recurse=False):
                assert rates[parameter] == pytest.approx(0.1 * 0.5**above)


def test_the_schedule_keeps_each_layers_share(make_trainer):
    peaks = {}

    def run(decay):
        net = make_task().net
        optimizer = partial(torch.optim.Adam, lr=0.05)
        task = ClassificationTask(net, optimizer, OneCycle, num_classes=2, layer_decay=decay)
        trainer = make_trainer(max_epochs=1)
        trainer.fit(task, Halves())
        (scheduler,) = trainer.lr_scheduler_configs
        peaks[decay] = [group["max_lr"] for group in scheduler.scheduler.optimizer.param_groups]
        rates = scheduler.scheduler.get_last_lr()
        assert [rate / rates[-1] for rate in rates] == pytest.approx(
            [peak / peaks[decay][-1] for peak in peaks[decay]], rel=1e-3
        )
        return net

    run(0.5)
    assert peaks[0.5] == pytest.approx([0.05 * 0.5**k for k in (3, 2, 1, 0)])
    net = run(1.0)
    assert peaks[1.0] == [0.05]  # one group, as ever
    assert len(layer_names(net)) == 4
