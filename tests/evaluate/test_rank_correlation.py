"""Rank correlation and structural similarity are those of scipy and scikit-image."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from skimage.metrics import structural_similarity as reference

from dmn.evaluate.rank import average_ranks, rank_correlation
from dmn.evaluate.structure import structural_similarity


@pytest.mark.parametrize("values", [2, 5, 1000])  # of which few are many ties
def test_ranks_and_correlations_are_those_of_scipy(values):
    a, b = (torch.randint(values, (20, 30)).double() - values / 2 for _ in range(2))
    a[0], b[0] = torch.arange(30.0) % 2, torch.arange(30.0) % 3  # in no case constant
    assert np.array_equal(average_ranks(a).numpy(), rankdata(a.numpy(), axis=1))
    expected = [spearmanr(*rows).statistic for rows in zip(a.numpy(), b.numpy(), strict=True)]
    assert rank_correlation(a, b).numpy() == pytest.approx(expected, abs=1e-12)
    assert np.std(expected) > 0.1


def test_any_increasing_change_leaves_the_correlation_and_a_decreasing_one_turns_it():
    a = torch.randn(50, 1, 4, 6)
    assert rank_correlation(a, a.exp()).tolist() == [1] * 50
    assert rank_correlation(a, -(a**3)).tolist() == [-1] * 50
    b = torch.randn(50, 1, 4, 6)
    assert torch.equal(rank_correlation(a, b), rank_correlation(b, a))
    alone = torch.cat([rank_correlation(a[i : i + 1], b[i : i + 1]) for i in range(50)])
    assert torch.equal(rank_correlation(a, b), alone)


def test_constant_rows_agree_with_each_other_only():
    constant, others = torch.full((2, 9), 3.0), torch.rand(2, 9)
    assert rank_correlation(constant, 0 * constant).tolist() == [1, 1]
    assert rank_correlation(constant, others).tolist() == [0, 0]
    assert rank_correlation(others, constant).tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_have_no_correlation(bad):
    a, b = torch.rand(3, 9), torch.rand(3, 9)
    b[1, 4] = bad
    assert rank_correlation(a, b).isnan().tolist() == [False, True, False]
    maps = b.view(3, 1, 3, 3)
    assert structural_similarity(a.view(3, 1, 3, 3), maps).isnan().tolist() == [False, True, False]


def test_noise_is_not_correlated_in_mean():
    a, b = torch.rand(400, 1, 8, 8), torch.rand(400, 1, 8, 8)
    assert rank_correlation(a, b).mean().item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("shape", [(7, 7), (12, 9), (32, 32)])
def test_structural_similarity_is_that_of_scikit_image(shape):
    a = torch.randn(6, 1, *shape)
    b = 0.6 * a + 0.4 * torch.randn(6, 1, *shape) + 0.3
    b[5] = 0
    scaled = [m / m.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30) for m in (a, b)]
    expected = [
        reference(*pair, data_range=2.0)
        for pair in zip(*(m[:, 0].double().numpy() for m in scaled), strict=True)
    ]
    assert structural_similarity(a, b).numpy() == pytest.approx(expected, abs=1e-6)
    assert np.std(expected) > 0.01


def test_structural_similarity_ignores_the_scale_but_not_the_order():
    a = torch.rand(5, 1, 10, 10)
    assert structural_similarity(a, 7 * a).numpy() == pytest.approx(1)
    assert structural_similarity(a, 1 - a).max() < -0.5
    zero = torch.zeros(1, 1, 10, 10)
    assert structural_similarity(zero, zero).item() == 1


def test_uniform_noise_is_similar_by_the_constant_of_the_definition_only():
    """That is C2 / (2 variance + C2), or 0.021, where the noise has the variance 1/12."""
    a, b = torch.rand(300, 1, 16, 16), torch.rand(300, 1, 16, 16)
    chance = 0.06**2 / (2 / 12 + 0.06**2)
    assert structural_similarity(a, b).mean().item() == pytest.approx(chance, abs=0.01)


def test_small_maps_have_smaller_windows():
    a, b = torch.rand(2, 1, 3, 5), torch.rand(2, 1, 3, 5)
    assert structural_similarity(a, b).isfinite().all()
