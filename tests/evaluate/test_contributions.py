"""Precision of the highest pixels, against a literal expectation over all orders of ties."""

from itertools import permutations

import pytest
import torch

from dmn.evaluate import METRICS, score
from dmn.evaluate.contributions import precision


def literal(values, true):
    """Average over all orders of the pixels, of which the first of equal ones counts as higher."""
    count, shares = sum(true), []
    for order in permutations(range(len(values))):
        highest = sorted(order, key=lambda pixel: -values[pixel])[:count]
        shares.append(sum(true[pixel] for pixel in highest) / count)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("levels", [1, 2, 3, 6])
def test_ties_are_scored_by_the_expected_value(levels):
    random = torch.Generator().manual_seed(levels)
    for count in range(1, 7):
        values = torch.randint(-levels // 2, levels, (6,), generator=random)
        true = torch.zeros(6, dtype=torch.bool)
        true[torch.randperm(6, generator=random)[:count]] = True
        result = precision(values.view(1, 1, 2, 3).float(), true.view(1, 1, 2, 3))
        assert result.dtype == torch.float64
        assert result.tolist() == pytest.approx([literal(values.tolist(), true.tolist())])


def test_a_perfect_map_has_1_and_a_constant_one_the_share_of_true_pixels():
    true = torch.rand(9, 1, 8, 8) < 0.3
    assert precision(true.float() * torch.rand(9, 1, 8, 8).add(0.1), true).tolist() == [1] * 9
    share = true.double().mean(dim=(1, 2, 3))
    assert torch.allclose(precision(torch.full((9, 1, 8, 8), -2.0), true), share)
    assert (precision(-true.float(), true) <= share).all()


def test_noise_of_any_sign_has_the_share_of_true_pixels():
    true = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    true[..., 2:4, 1:7] = True
    many = true.expand(4000, 1, 8, 8)
    for noise in (torch.rand(4000, 1, 8, 8), torch.randn(4000, 1, 8, 8)):
        assert precision(noise, many).mean() == pytest.approx(12 / 64, abs=0.006)


def test_there_is_no_precision_without_true_pixels():
    assert precision(torch.rand(2, 1, 3, 3), torch.zeros(2, 1, 3, 3).bool()).isnan().all()


def test_rows_use_the_sign_of_the_mask_and_score_any_map():
    mask = torch.zeros(3, 1, 4, 4)
    mask[:, 0, 0], mask[:, 0, 1, 0] = 0.5, -3
    x, y = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long)
    maps = torch.stack([mask[0], -mask[0], torch.zeros_like(mask[0])])
    names = ["PositivePrecision", "NegativePrecision"]
    scored = score(names, torch.nn.Flatten(), lambda images, target: maps, x, y, mask)
    assert scored[names[0]].values.tolist() == [1, 0, 0.25]
    assert scored[names[1]].values.tolist() == [1, 0, 1 / 16]
    one_sided = score(names, torch.nn.Flatten(), lambda *_: maps, x, y, mask.clamp(min=0))
    assert set(one_sided[names[1]].remarks) == {"the score is not a number"}
    for name in names:
        assert METRICS[name].signed_mask
        assert METRICS[name].benchmark == "constructed"
