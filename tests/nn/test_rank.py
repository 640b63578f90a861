import pytest
import torch

from dmn.nn import effective_rank


def test_independent_channels_count_one_each():
    torch.manual_seed(0)
    assert effective_rank(torch.randn(200, 6, 10, 10)) == pytest.approx(6, abs=0.01)


def test_copies_of_one_channel_count_as_one_whatever_their_scale_and_mean():
    channel = torch.randn(20, 1, 5, 5)
    scale, shift = torch.rand(1, 7, 1, 1) + 0.5, torch.randn(1, 7, 1, 1)
    assert effective_rank(scale * channel + shift) == pytest.approx(1, abs=1e-3)


def test_what_does_not_vary_has_none():
    assert effective_rank(torch.ones(4, 3)) == 0


def test_it_is_exp_of_the_entropy_of_the_singular_values():
    values = torch.randn(30, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    singular = torch.linalg.svdvals(values - values.mean(dim=0))
    share = singular / singular.sum()
    expected = torch.exp(-(share * share.log()).sum())
    assert effective_rank(values) == pytest.approx(float(expected))


def test_places_count_as_samples():
    x = torch.randn(3, 5, 4, 2)
    assert effective_rank(x) == pytest.approx(
        effective_rank(x.permute(0, 2, 3, 1).reshape(-1, 5)), rel=1e-9
    )
