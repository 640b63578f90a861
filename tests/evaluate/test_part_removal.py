"""The rank correlation of a map's means over parts with what the parts are worth."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from dmn.evaluate import score
from dmn.explain import CentreGaussian, RandomMap

SIZE = 12


def masks_of_parts(count):
    """Masks with four parts of different sizes, whose worths have any sign."""
    masks = torch.zeros(count, 1, SIZE, SIZE)
    worth = torch.randn(count, 4)
    for part, rows in enumerate((slice(0, 2), slice(3, 6), slice(7, 8), slice(9, 12))):
        masks[:, 0, rows, part : part + 6] = worth[:, part, None, None]
    return masks


def scored(explainer, masks):
    x = torch.rand(len(masks), 1, SIZE, SIZE)
    y = torch.zeros(len(masks), dtype=torch.long)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 2)).eval()
    return score("PartRemoval", model, explainer, x, y, masks)["PartRemoval"]


def test_the_right_map_scores_1_its_negative_minus_1_and_a_constant_one_0():
    masks = masks_of_parts(10)
    assert scored(lambda x, target: masks, masks).values.tolist() == [1] * 10
    assert scored(lambda x, target: -masks, masks).values.tolist() == [-1] * 10
    assert scored(lambda x, target: masks.exp(), masks).values.tolist() == [1] * 10
    assert scored(lambda x, target: 0 * masks, masks).values.tolist() == [0] * 10


@pytest.mark.parametrize("shift", [0, -0.5])
def test_noise_scores_0_in_mean(shift):
    noise = scored(lambda x, target: RandomMap()(x, target) + shift, masks_of_parts(1500))
    assert noise.mean == pytest.approx(0, abs=0.05)
    assert np.std(noise.values) > 0.3


def test_scores_are_those_of_the_definition():
    masks = masks_of_parts(8)
    maps = masks + torch.randn(8, 1, SIZE, SIZE)
    expected = []
    for map_, mask in zip(maps.double().numpy(), masks.numpy(), strict=True):
        worth = sorted({float(value) for value in mask.ravel() if value != 0})
        means = [np.mean([m for m, v in zip(map_.ravel(), mask.ravel(), strict=True) if v == each])
                 for each in worth]  # fmt: skip
        expected.append(spearmanr(worth, means).statistic)
    result = scored(lambda x, target: maps, masks)
    assert result.values == pytest.approx(expected, abs=1e-9)
    assert len(set(expected)) > 1


def test_one_part_has_no_order():
    masks = masks_of_parts(2)
    masks[0, 0, 2:] = 0
    result = scored(CentreGaussian(), masks)
    assert result.reasons == ["mask of fewer than two parts", ""]
    assert np.isnan(result.values[0])
