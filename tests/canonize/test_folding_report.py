"""A canonized network says what was folded, replaced and left."""

import pytest
import torch
from torch import nn

from dmn.canonize import canonize, folding_report, hookable
from dmn.errors import UnsupportedError


def test_what_was_folded_replaced_and_left_is_told():
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(4 * 9), nn.Linear(36, 2)),
    ).eval()
    x = torch.randn(1, 3, 5, 5)
    report = folding_report(canonize(model, x))
    assert report.folded == ("1 (BatchNorm2d)", "8 (LayerNorm)")
    assert report.replaced == ("3 (BatchNorm2d)",)
    assert [node.path for node in report.left] == ["5 (GroupNorm)"]
    assert report.example_shape == (1, 3, 5, 5)
    assert str(report).splitlines() == [
        "folded into linear operations: BatchNorm2d x 1, LayerNorm x 1",
        "written as linear operations of their own: BatchNorm2d x 1",
        "left: 5 (GroupNorm): its output goes to 6 (ReLU), which is not linear",
    ]


def test_without_norms_and_without_an_example():
    report = folding_report(canonize(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))))
    assert report == ((), (), (), None)
    assert str(report) == "nothing to fold"


def test_a_network_that_is_not_canonized_has_none():
    with pytest.raises(UnsupportedError, match="Sequential is not canonized; call canonize first"):
        folding_report(hookable(nn.Sequential(nn.Linear(4, 2))))
