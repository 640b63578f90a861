"""Precision and mass, against their definitions; perfect and random maps in all rows."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from known_maps import InkIn

from dmn.errors import DataError
from dmn.evaluate import METRICS, score
from dmn.evaluate.batch import ExplainedBatch
from dmn.evaluate.precision import mass, mass_in_mask, precision, precision_in_mask
from dmn.explain.controls import RandomMap

MEASURES = {precision_in_mask: precision, mass_in_mask: mass}
ROWS = [name for name, spec in METRICS.items() if spec.measure in MEASURES]
PIXELS, INSIDE = 16 * 16, 20


def literal_precision(values, inside):
    """Average over all orders of equal values: sort every order of the pixels, count the first."""
    size, shares = int(sum(inside)), []
    for order in permutations(range(len(values))):
        first = sorted(order, key=lambda at: -values[at])[:size]
        shares.append(sum(inside[at] for at in first) / size)
    return math.fsum(shares) / len(shares)


def literal_mass(values, inside):
    """A map of zeros is a constant one."""
    sizes = [abs(value) for value in values]
    if not any(sizes):
        sizes = [1.0] * len(sizes)
    return sum(size for size, within in zip(sizes, inside, strict=True) if within) / sum(sizes)


@pytest.fixture
def small():
    """Return maps of 2 x 3 pixels, many with equal values, and masks of every size."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(-2, 3, (24, 1, 2, 3), generator=generator) / 2
    distinct = torch.randn(6, 1, 2, 3, generator=generator)
    maps = torch.cat([draws, distinct, torch.zeros(1, 1, 2, 3), -torch.ones(1, 1, 2, 3)])
    masks = torch.zeros(len(maps), 6)
    for row, mask in enumerate(masks):
        mask[torch.randperm(6, generator=generator)[: 1 + row % 6]] = 1
    return maps, masks.view_as(maps)


@pytest.mark.parametrize(
    ("measure", "literal"), [(precision, literal_precision), (mass, literal_mass)]
)
def test_they_are_as_defined(small, measure, literal):
    maps, masks = small
    expected = [
        literal(values.tolist(), mask.tolist())
        for values, mask in zip(maps.double().flatten(1), masks.flatten(1), strict=True)
    ]
    assert measure(maps, masks).dtype == torch.float64
    assert measure(maps, masks).tolist() == pytest.approx(expected, abs=1e-12)


def large(count=400):
    """Return masks of `INSIDE` of `PIXELS` pixels, and a generator."""
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(count, PIXELS, generator=generator).argsort(dim=1)
    return (order < INSIDE).float().view(count, 1, 16, 16), generator


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.exp(), lambda x: 3 * x - 7])
def test_precision_looks_at_the_order_only(change):
    masks, generator = large(50)
    maps = torch.randn(masks.shape, generator=generator, dtype=torch.float64)
    assert torch.equal(precision(change(maps), masks), precision(maps, masks))
    assert precision(maps, masks).std() > 0


def test_signs_count_for_precision_but_not_for_mass():
    masks, _ = large(5)
    assert precision(-masks, masks).tolist() == [0.0] * 5
    assert mass(-masks, masks).tolist() == [1.0] * 5


def test_a_score_does_not_depend_on_the_batch():
    masks, generator = large(30)
    maps = torch.randn(masks.shape, generator=generator)
    for measure in MEASURES.values():
        alone = [measure(maps[i : i + 1], masks[i : i + 1]) for i in range(30)]
        assert torch.equal(torch.cat(alone), measure(maps, masks))


def scores(name, explain, masks):
    x = torch.rand(masks.shape, generator=torch.Generator().manual_seed(2))
    classes = torch.zeros(len(x), dtype=torch.long)
    return score(name, InkIn().eval(), explain, x, classes, masks, batch_size=len(x))[name]


def test_each_measure_has_rows():
    assert {METRICS[name].measure for name in ROWS} == set(MEASURES)


@pytest.mark.parametrize("name", ROWS)
def test_a_perfect_map_is_perfect(name):
    masks, _ = large(20)
    for scale in (1.0, 1e-30, 1e30):
        assert scores(name, lambda *_, s=scale: s * masks, masks).values.tolist() == [1.0] * 20


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("noise", ["uniform", "signed"])
def test_a_random_map_is_at_chance(name, noise):
    """It has k / N; the standard error is 0.003 here."""
    masks, generator = large()
    signed = torch.randn(masks.shape, generator=generator)
    explain = RandomMap() if noise == "uniform" else lambda *_: signed
    result, chance = scores(name, explain, masks), INSIDE / PIXELS
    assert result.n == len(masks)
    assert result.mean == pytest.approx(chance, abs=0.01)
    assert result.values.std() > 0.01


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_a_constant_map_is_scored_at_chance(name, value):
    masks, _ = large(5)
    result = scores(name, lambda *_: torch.full_like(masks, value), masks)
    assert result.values.tolist() == pytest.approx([INSIDE / PIXELS] * 5)
    assert not result.remarks


@pytest.mark.parametrize("name", ROWS)
def test_a_map_that_is_not_finite_has_no_score(name):
    masks, _ = large(3)
    maps = masks.clone()
    maps[1, 0, 0, 0] = math.nan
    result = scores(name, lambda *_: maps, masks)
    assert np.isnan(result.values).tolist() == [False, True, False]
    assert result.reasons[1] == "map is not finite"


@pytest.mark.parametrize("measure", MEASURES)
def test_a_batch_without_masks_is_refused(measure):
    x = torch.rand(1, 1, 8, 8)
    batch = ExplainedBatch(InkIn(), RandomMap(), x, torch.zeros(1).long(), None, x, seed=0)
    with pytest.raises(DataError, match="masks"):
        measure(batch)
