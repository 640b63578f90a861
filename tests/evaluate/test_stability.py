"""Stability is the mean rank correlation over small changes that leave the prediction alone."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from scipy.stats import spearmanr
from torch import nn

from dmn.evaluate import score
from dmn.evaluate.stability import PERTURBATIONS
from dmn.explain import CentreGaussian, RandomMap
from dmn.explain.draws import generators

SEED = 3


class Sums(nn.Module):
    """Two classes: the mean of the left half and that of the right half."""

    def forward(self, x):
        halves = x.mean(dim=(1, 2)).tensor_split(2, dim=1)
        return torch.stack([half.mean(dim=1) for half in halves], dim=1)


class Between(nn.Module):
    """One logit, which is positive if the mean is more than a limit."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None] - self.limit


def stability(explainer, x, model=None, **options):
    y = torch.zeros(len(x), dtype=torch.long)
    model = (model or Sums()).eval()
    return score("Stability", model, explainer, x, y, seed=SEED, **options)["Stability"]


def decided(count, height=12, width=10):
    """Images whose left half is clearly brighter than the right."""
    x = torch.rand(count, 3, height, width)
    x[..., : width // 2] += 1
    return x


def weigh(x, target):
    return (5 * x).sin().sum(dim=1, keepdim=True).float()


def changed(x, kind):
    """Change an image (C, H, W) in float64, by the definition."""
    low, high = x.min(), x.max()
    if kind == "down":
        return np.concatenate([x[:, :1], x[:, :-1]], axis=1)
    if kind == "right":
        return np.concatenate([x[:, :, :1], x[:, :, :-1]], axis=2)
    if kind == "brightness":
        return low + 0.9 * (x - low)
    if kind == "contrast":
        return x.mean() + 0.9 * (x - x.mean())
    if kind == "noise":
        (rng,) = generators(x[None].astype(np.float32), SEED)
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        return np.clip(x + 0.02 * (high - low) * noise, low, high)
    down, right = -x.shape[1] % 8, -x.shape[2] % 8
    padded = np.pad(x, [(0, 0), (0, down), (0, right)], mode="edge")
    step = 0.1 * (high - low)
    for channel in padded:
        for i in range(0, len(channel), 8):
            for j in range(0, len(channel[0]), 8):
                block = channel[i : i + 8, j : j + 8]
                waves = dctn(block, norm="ortho")
                channel[i : i + 8, j : j + 8] = idctn(step * np.round(waves / step), norm="ortho")
    return np.clip(padded[:, : x.shape[1], : x.shape[2]], low, high)


@pytest.mark.parametrize("shape", [(16, 8), (12, 10), (7, 9)])
def test_changes_are_those_of_the_definition(shape):
    x = 2 * torch.rand(2, 3, *shape).double() - 0.5
    for kind, perturbation in PERTURBATIONS.items():
        expected = np.stack([changed(image, kind) for image in x.numpy()])
        assert perturbation.change(x, SEED).numpy() == pytest.approx(expected, abs=1e-5), kind
        assert np.abs(expected - x.numpy()).max() > 0.01, kind


def test_stability_is_its_definition():
    x, model = decided(4), Sums()
    x[3] = 0.3 + 0.01 * torch.rand(3, 12, 10)  # hardly decided
    expected = []
    for image in x.double().numpy():
        before = weigh(torch.from_numpy(image)[None], 0)[0, 0].numpy()
        predicted = model(torch.from_numpy(image)[None]).argmax().item()
        values = []
        for kind in PERTURBATIONS:
            other = torch.from_numpy(changed(image, kind))[None]
            after = weigh(other, 0)[0, 0].numpy()
            a, b = {
                "down": (before[:-1], after[1:]),
                "right": (before[:, :-1], after[:, 1:]),
            }.get(kind, (before, after))
            if model(other).argmax().item() == predicted:
                values.append(spearmanr(a.ravel(), b.ravel()).statistic)
        expected.append(np.mean(values))
    assert stability(weigh, x).values == pytest.approx(expected, abs=2e-3)
    assert np.std(expected) > 0.01


def test_a_map_that_moves_with_the_image_is_stable_and_noise_is_not():
    x = decided(60)
    moving = stability(lambda x, target: x.sum(dim=1, keepdim=True), x)
    assert moving.n == 60
    assert moving.values.min() > 0.95
    assert stability(RandomMap(), x).mean == pytest.approx(0, abs=0.02)
    signed = stability(lambda x, target: RandomMap()(x, target) - 0.5, x)
    assert signed.mean == pytest.approx(0, abs=0.02)
    assert 0.95 < stability(CentreGaussian(), x).mean < 1  # it stays where the image moves
    assert (stability(lambda x, target: torch.ones_like(x[:, :1]), x).values == 1).all()


def test_changes_of_the_prediction_are_not_counted():
    """The map turns where the image gets darker, and so does the prediction."""
    x = torch.rand(5, 1, 9, 9) + 0.5
    limits = 0.97 * x.mean(dim=(1, 2, 3))

    def turning(x, target):
        dark = x.mean(dim=(1, 2, 3), keepdim=True) < limits[0]
        return torch.where(dark, -x, x)

    one = stability(turning, x[:1], Between(limits[0]))
    assert one.n == 1
    assert one.values[0] > 0.9
    assert stability(turning, x[:1], Between(0.0)).values[0] < one.values[0] - 0.2


def test_images_whose_prediction_always_changes_have_no_score():
    x = decided(3)

    class Touchy(nn.Module):
        def forward(self, images):
            known = (images[:, None] == x[:2]).flatten(2).all(dim=2).any(dim=1).float()
            return torch.stack([known, 0.5 * torch.ones(len(images))], dim=1)

    result = stability(weigh, x, Touchy())
    assert np.isnan(result.values).tolist() == [True, True, False]
    assert result.reasons[:2] == ["every small change of the image changes the predicted class"] * 2


def test_scores_depend_on_the_image_and_the_seed_only():
    x = decided(5)
    whole = stability(weigh, x)
    assert np.array_equal(stability(weigh, x, batch_size=1).values, whole.values)
    assert np.array_equal(stability(weigh, x.flip(0)).values[::-1], whole.values)
    y = torch.zeros(5, dtype=torch.long)
    other = score("Stability", Sums().eval(), weigh, x, y, seed=SEED + 1)["Stability"]
    assert not np.array_equal(other.values, whole.values)


def test_constant_images_and_bad_maps_do_no_harm():
    x = torch.full((2, 1, 8, 8), 0.25)
    for kind, perturbation in PERTURBATIONS.items():
        assert perturbation.change(x, SEED).isfinite().all(), kind
    x = decided(3)

    def broken(images, target):
        return torch.where(images[:, :1] == x[:, :1], weigh(images, target), math.nan)

    assert stability(broken, x).remarks == {"map of a changed image is not finite": 3}
