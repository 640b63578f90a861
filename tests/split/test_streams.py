"""Numbers in units of powers of two: nothing is lost, and nothing overflows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmn.rules.scaled import (
    Scaled,
    aligned,
    blockwise,
    halves,
    magnitude,
    power,
    recentred,
    rescaling,
    settle,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DRAWN = settings(max_examples=50, deadline=None, derandomize=True)


def values(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 5, generator=generator).to(dtype)


@DRAWN
@given(st.integers(-60, 60), st.integers(-30, 30), st.integers(0, 99))
def test_another_unit_is_the_same_number_digit_for_digit(exponent, shift, seed):
    x = Scaled(values(seed), exponent)
    there = x.to(exponent + shift)
    assert there.exponent == exponent + shift
    assert torch.equal(there.to(exponent).tensor, x.tensor)
    assert torch.equal(torch.frexp(there.tensor)[0], torch.frexp(x.tensor)[0])
    assert x.unit == 2.0**-exponent


def test_powers_are_exact_and_vanish_where_too_small():
    assert [power(k) for k in (-3, 0, 5)] == [0.125, 1.0, 32.0]
    assert power(-1074) > 0
    assert power(-1075) == power(-(10**9)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [-0.6, -0.3, 0.0, 0.3, 0.6])
def test_rescaling_leaves_room_for_a_layer_and_touches_nothing_else(dtype, share):
    bits = math.frexp(torch.finfo(dtype).max)[1]
    x = values(1, dtype) * 2.0 ** int(share * bits)
    scaled = Scaled(x, 7).rescaled()
    assert torch.equal(scaled.to(7).tensor, x)
    if abs(share) < 0.35:
        assert scaled.exponent == 7
    else:
        assert 0.5 <= magnitude(scaled.tensor) < 1


@pytest.mark.parametrize("broken", [0.0, math.inf, math.nan])
def test_rescaling_leaves_what_has_no_size(broken):
    x = torch.full((2, 2), broken)
    assert rescaling([x], 5) == 5
    assert Scaled(x, 5).rescaled().exponent == 5
    (settled,) = settle([Scaled(x)])
    assert torch.equal(settled.isnan(), x.isnan())


def test_rescaling_looks_at_the_largest():
    small, large = values(1), values(2) * 2.0**100
    exponent = rescaling([small, large], 0)
    assert exponent == math.frexp(magnitude(large))[1]


def test_repeated_layers_do_not_overflow():
    x, weight = Scaled(torch.ones(8)), 100 * torch.ones(8, 8)
    for _ in range(200):
        x = Scaled(weight @ x.tensor, x.exponent).rescaled()
    assert torch.isfinite(x.tensor).all()
    bits = math.log2(float(x.tensor[0])) + x.exponent
    assert bits == pytest.approx(200 * math.log2(800))


def test_what_fits_is_settled_as_it_is():
    parts = [Scaled(values(1) * 2.0**-9, 9), Scaled(values(2))]
    settled = settle(parts)
    assert torch.equal(settled[0], values(1))
    assert torch.equal(settled[1], values(2))


@DRAWN
@given(st.integers(-2000, 2000), st.integers(-2000, 2000))
def test_what_does_not_fit_shares_one_power_of_two(one, two):
    parts = [Scaled(values(1), one), Scaled(values(2), two)]
    settled = settle(parts)
    most = 2.0 ** (2 * 128 // 5)
    assert all(torch.isfinite(part).all() and magnitude(part) <= most for part in settled)
    sizes = [math.log2(magnitude(part.tensor)) + part.exponent for part in parts]
    kept = [magnitude(part) for part in settled]
    largest = sizes.index(max(sizes))
    if max(sizes) > -100:
        factor = math.log2(kept[largest]) - sizes[largest]
        assert factor == pytest.approx(round(factor), abs=1e-6)
        other = 1 - largest
        if sizes[other] + factor > -100:
            assert math.log2(kept[other]) - sizes[other] == pytest.approx(factor, abs=1e-6)
    if max(sizes) < 50:
        assert factor_is_none(parts, settled)


def factor_is_none(parts, settled):
    pairs = zip(parts, settled, strict=True)
    return all(torch.equal(part.to(0).tensor, there) for part, there in pairs)


def test_aligning_takes_the_largest_unit():
    one, two = Scaled(values(1), 3), Scaled(values(2), -4)
    (first, second), exponent = aligned([one, two])
    assert exponent == 3
    assert first is one.tensor
    assert torch.equal(second, values(2) * 2.0**-7)
    total = Scaled(first + second, exponent).to(0).tensor
    assert torch.allclose(total, values(1) * 8 + values(2) / 16)


def test_magnitude():
    assert magnitude(torch.tensor([1.0, -3.0])) == 3
    assert magnitude(torch.empty(0)) == 0
    assert math.isnan(magnitude(torch.tensor([1.0, math.nan])))


@DRAWN
@given(st.integers(1, 130), st.booleans())
def test_piece_by_piece_is_the_same_as_at_once(size, permuted):
    x, y = values(1), values(2)
    if permuted:  # not contiguous
        x, y = x.permute(2, 0, 1), y.permute(2, 0, 1)

    def function(a, b):
        return a * b + 1, a - b

    whole, cut = function(x, y), blockwise(function, x, y, size=size)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
    assert all(part.shape == x.shape for part in cut)


@DRAWN
@given(st.integers(0, 99), st.integers(-20, 20))
def test_halves_give_back_difference_and_sum(seed, exponent):
    u = values(seed, torch.float64)
    s = Scaled((u.abs() + values(seed + 1, torch.float64).abs()) * 2.0**-exponent, exponent)
    p, n = (Scaled(part, exponent).to(0).tensor for part in halves(s, u))
    assert float(p.min()) >= 0
    assert float(n.min()) >= 0
    assert torch.allclose(p - n, u)
    assert torch.allclose(p + n, s.to(0).tensor)


@pytest.mark.parametrize("exponent", [0, 6])
@pytest.mark.parametrize("theta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_recentring_keeps_a_share_of_what_is_common(theta, threshold, exponent):
    u = values(3, torch.float64)
    whole = u.abs() + values(4, torch.float64).abs()
    s = Scaled(whole * 2.0**-exponent, exponent)
    kept = recentred(s, u, theta, threshold).to(0).tensor
    expected = u.abs() + theta * (whole - u.abs())
    expected = torch.where(whole > threshold, expected, whole)
    assert torch.allclose(kept, expected)
    if theta == 1:
        assert recentred(s, u, theta, threshold) is s
