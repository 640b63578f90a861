"""What is said about changes of regions holds for random changes of them."""

import pytest
import torch
from boxed_networks import logits, points
from small_pairs import tiny_pair

from dmn.certify import box, certain, certified_map, guaranteed_margin, least_change, looseness
from dmn.errors import OptionError


@pytest.fixture
def problem():
    net = tiny_pair("inverted", residual=True)
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


@pytest.mark.parametrize("masked", [False, True])
def test_no_smaller_change_takes_the_class_away(problem, masked):
    net, x, target = problem
    mask = torch.zeros(12, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:5, 3:6] = True
    mask = mask if masked else None
    change = least_change(net, x, target, mask)
    assert (change > 0).all()
    low, high = box(x, change[:, None, None, None], mask)
    assert (logits(net, points(low, high, 200)).argmax(2) == target).all()
    more = (change + 2 / 4096)[:, None, None, None]
    assert torch.equal(certain(net, *box(x, more, mask), target), change == 1)


def test_regions_matter_less_than_the_whole_and_some_do_not_matter_at_all(problem):
    net, x, target = problem
    mask = torch.zeros(12, 1, 8, 8)
    mask[..., 4, 4] = 1
    region, whole = least_change(net, x, target, mask), least_change(net, x, target)
    assert (region >= whole).all()
    assert (region > whole).any()
    assert (least_change(net, x, target, torch.zeros_like(mask)) == 1).all()
    assert (least_change(net, x, (target + 1) % 3) == 0).all()


@pytest.mark.parametrize("cell", [3, 4])
def test_the_map_says_how_far_margins_fall_for_each_cell(problem, cell):
    net, x, target = problem
    found = certified_map(net, x, target, 0.5, cell)
    assert found.shape == x.shape
    assert (found >= 0).all()
    margin = guaranteed_margin(net, x, x, target)
    for row in range(0, 8, cell):
        for column in range(0, 8, cell):
            inside = torch.zeros(1, 1, 8, 8)
            inside[..., row : row + cell, column : column + cell] = 1
            low, high = box(x, 0.5, inside)
            expected = (margin - guaranteed_margin(net, low, high, target)).clamp(min=0)
            torch.testing.assert_close(found[:, 0, row, column], expected)
            outputs = logits(net, points(low, high, 50))
            own = outputs.gather(2, target.expand(len(outputs), -1)[..., None])
            others = outputs.scatter(2, target.expand(len(outputs), -1)[..., None], -torch.inf)
            fallen = margin - (own[..., 0] - others.amax(2))
            assert (fallen <= expected + 1e-9).all()


@pytest.mark.parametrize("options", [{"eps": -0.1}, {"cell": 0}])
def test_options_of_the_map_are_checked(problem, options):
    with pytest.raises(OptionError):
        certified_map(*problem, **options)


def test_looseness_is_1_of_exact_bounds_and_more_of_others(problem):
    net, x, _ = problem
    assert looseness(net, *box(x, 0.1), samples=4).max() < 1 + 1e-6
    assert looseness(tiny_pair("paired"), *box(x, 0.1)).min() > 1.2
