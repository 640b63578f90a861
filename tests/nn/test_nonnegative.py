import copy

import pytest
import torch
from small_pairs import tiny_pair
from torch import nn

from dmn.errors import NotMonotoneError
from dmn.models import MonotoneConvNet, MonotoneMLP
from dmn.nn import (
    MONOTONE_OPERATIONS,
    Monotone,
    assert_monotone,
    constrained,
    constraint_statistics,
    project,
)
from dmn.nn.nonnegative import BATCH_NORM_FLOOR, REPARAMETRISATIONS


def spoil(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


def test_every_weight_and_no_bias_of_a_monotone_network_is_constrained(pair):
    names = {item.name for item in constrained(pair)}
    assert names == {name for name, _ in pair.named_parameters() if name.endswith("weight")}


def test_projection_is_the_nearest_point_of_the_constraint(pair):
    before = {name: value.clone() for name, value in spoil(pair).named_parameters()}
    project(pair)
    for name, after in pair.named_parameters():
        floor = {"norm.weight": BATCH_NORM_FLOOR, "v.weight": 0.0, "d.weight": 0.0}
        expected = before[name]
        for ending, least in floor.items():
            if name.endswith(ending):
                expected = expected.clamp(min=least)
        assert torch.equal(after, expected), name
    assert_monotone(pair)


def test_assert_monotone_names_the_parameter_that_breaks_it(pair):
    assert_monotone(pair)
    with torch.no_grad():
        pair.h.net.stage2_1.conv.weight[0, 0, 0, 0] = -0.25
    with pytest.raises(NotMonotoneError, match=r"h\.net\.stage2_1\.conv\.weight.*-0\.25.*floor 0"):
        assert_monotone(pair)


def test_a_dead_batch_norm_scale_and_nan_break_it(pair):
    broken = copy.deepcopy(pair)
    broken.g.net.stem.norm.weight.data[0] = 0.0
    with pytest.raises(NotMonotoneError, match=r"g\.net\.stem\.norm\.weight"):
        assert_monotone(broken)
    pair.g.net.head.weight.data[0, 0] = float("nan")
    with pytest.raises(NotMonotoneError, match=r"g\.net\.head\.weight.*nan"):
        assert_monotone(pair)


class Custom(Monotone, nn.Sequential):
    pass


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LayerNorm(4), "1: LayerNorm is not known to be monotone"),
        (nn.GELU(), "1: GELU is not known"),
        (nn.BatchNorm1d(4, track_running_stats=False), "1: BatchNorm without running"),
    ],
)
def test_what_may_decrease_is_refused_by_name(layer, message):
    net = Custom(nn.Linear(4, 4), layer)
    project(net)
    with pytest.raises(NotMonotoneError, match=message):
        assert_monotone(net)


def test_users_can_register_an_operation(monkeypatch):
    class Shift(nn.Module):
        def forward(self, x):
            return x + 1

    net = Custom(Shift())
    with pytest.raises(NotMonotoneError, match="MONOTONE_OPERATIONS"):
        assert_monotone(net)
    monkeypatch.setattr("dmn.nn.nonnegative.MONOTONE_OPERATIONS", {*MONOTONE_OPERATIONS, Shift})
    assert_monotone(net)


def test_a_model_without_constrained_parts_is_refused():
    with pytest.raises(NotMonotoneError, match="Linear has no constrained part"):
        assert_monotone(nn.Linear(2, 2))
    with pytest.raises(NotMonotoneError, match="no constrained part"):
        assert_monotone(tiny_pair(constraint="none"))
    assert constraint_statistics(nn.Linear(2, 2)) == {}


@pytest.mark.parametrize("constraint", REPARAMETRISATIONS)
def test_reparametrisation_keeps_the_start_and_the_constraint(constraint):
    torch.manual_seed(3)
    start = MonotoneConvNet(1, (4,), 1, grid=2, num_classes=3)
    torch.manual_seed(3)
    net = MonotoneConvNet(1, (4,), 1, grid=2, num_classes=3, constraint=constraint)
    assert torch.allclose(net.stem.conv.weight, start.stem.conv.weight, atol=1e-5)
    spoil(net)
    project(net)  # the scale of BatchNorm stays projected
    assert_monotone(net)
    assert net.stem.conv.weight.min() >= 0


@pytest.mark.parametrize("constraint", REPARAMETRISATIONS)
def test_reparametrised_networks_train_copy_and_round_trip(constraint, tmp_path):
    net = MonotoneMLP(6, (5,), 3, constraint=constraint)
    x = torch.rand(16, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    before = net.block1[0].weight.detach().clone()
    net(x).square().mean().backward()
    optimizer.step()
    project(net)
    assert not torch.equal(before, net.block1[0].weight)
    assert_monotone(net)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = MonotoneMLP(6, (5,), 3, constraint=constraint)
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(copy.deepcopy(net).eval()(x), other.eval()(x))


def test_statistics_say_how_near_the_constraint_is(pair):
    stats = constraint_statistics(pair)
    assert stats["min_weight"] >= 0
    weight = pair.g.net.stem.conv.weight
    total = sum(item.weight.numel() for item in constrained(pair))
    with torch.no_grad():
        weight.zero_()
    after = constraint_statistics(pair)
    assert after["zero_fraction"] == pytest.approx(stats["zero_fraction"] + weight.numel() / total)
    weight.data[0] = -2.0
    assert constraint_statistics(pair)["min_weight"] == -2.0
