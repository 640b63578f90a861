import gc
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from dmn.evaluate import METRICS, Scores, score
from dmn.explain import RandomMap

SIZE = 8


class InkIn(nn.Module):
    """Class k is the ink in column k, so that the right explanation is known."""

    def __init__(self, classes=4):
        super().__init__()
        self.classes = classes
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return self.scale * x.mean(dim=(1, 2))[:, : self.classes]


class Column:
    """The right map of `InkIn`: the target's column."""

    def __call__(self, x, target=None):
        maps = torch.zeros(len(x), 1, *x.shape[-2:])
        maps[torch.arange(len(x)), 0, :, torch.as_tensor(target)] = 1.0
        return maps * x.clamp(min=0.01)


class Fixed(Column):
    """Return the maps given for all images, and right ones for perturbed subsets of them."""

    def __init__(self, maps):
        self.maps = maps

    def __call__(self, x, target=None):
        return self.maps if len(x) == len(self.maps) else super().__call__(x, target)


@pytest.fixture
def digits():
    x = torch.rand(6, 1, SIZE, SIZE) * 0.2
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    masks = torch.zeros_like(x)
    for index, column in enumerate(y):
        x[index, 0, :, column] += 0.7
        masks[index, 0, :, column] = 1
    return x, y, masks


def scored(explainer, digits, metrics=tuple(METRICS), model=None):
    return score(metrics, (model or InkIn()).eval(), explainer, *digits)


def test_the_right_map_beats_noise_by_every_directed_metric(digits):
    right, noise = scored(Column(), digits), scored(RandomMap(0), digits)
    for name in set(METRICS) - {"RandomLogit"}:
        better = right[name].mean - noise[name].mean
        assert better * (1 if METRICS[name].higher_is_better else -1) > 0, name
        assert right[name].n == 6
        assert not right[name].remarks
    assert right["PointingGame"].mean == 1
    assert right["RelevanceRankAccuracy"].mean == 1
    assert right["RandomLogit"].mean < 0.5


def test_pixel_flipping_is_the_area_of_the_curve_by_hand(digits):
    x, y, _ = digits
    maps, model = Column()(x, y), InkIn().eval()
    step = METRICS["PixelFlipping"].build((1, SIZE, SIZE), 4).features_in_step
    order = np.argsort(-maps.flatten(1).numpy(), axis=1)
    for index in range(len(x)):
        flipped, curve = x[index].clone().flatten(), []
        for start in range(0, SIZE * SIZE, step):
            flipped[order[index, start : start + step]] = 0.0
            logits = model(flipped.view(1, 1, SIZE, SIZE))
            curve.append(float(logits.softmax(1)[0, y[index]].detach()))
        area = np.trapezoid(curve) / (len(curve) - 1)
        assert scored(Column(), digits)["PixelFlipping"].values[index] == pytest.approx(area, 1e-5)


def test_scores_lie_in_the_range_of_the_table(digits):
    for explainer in (Column(), RandomMap(1)):
        for name, result in scored(explainer, digits).items():
            low, high = METRICS[name].range
            assert (result.values >= low - 1e-6).all(), name
            assert (result.values <= high + 1e-6).all(), name


def test_degenerate_maps_cost_only_themselves(digits):
    x, y, masks = digits
    maps = Column()(x, y)
    maps[0] = 0.0
    maps[1] = float("nan")
    maps[2] = -maps[2] - 0.1
    masks[3] = 0
    results = scored(Fixed(maps), (x, y, masks))
    reasons = {"map is constant", "map is not finite", "map is nowhere positive"}
    for name, result in results.items():
        assert result.values.shape == (6,)
        if METRICS[name].needs_mask:
            assert result.remarks["mask is empty"] == 1
            assert np.isnan(result.values[3])
        else:
            assert set(result.remarks) == reasons
        assert np.isnan(result.values[1:3]).all()
        assert np.isfinite(result.values[4:]).all()
    pointing = results["PointingGame"]
    assert pointing.values[0] == 0  # a constant map points nowhere
    assert pointing.remarks["map is constant, scored 0"] == 1
    assert np.isnan(results["Sparseness"].values[0])


def test_nothing_to_score_is_nan_and_no_error(digits):
    x, y, _ = digits
    results = score(METRICS, InkIn().eval(), Fixed(torch.zeros(6, 1, SIZE, SIZE)), x, y)
    assert results.pop("PointingGame").remarks == {"map is constant, scored 0": 6}
    for result in results.values():
        assert math.isnan(result.mean)
        assert result.n == 0
        assert result.remarks == {"map is constant": 6}


def test_without_masks_localisation_says_so(digits):
    x, y, _ = digits
    results = score(METRICS, InkIn().eval(), Column(), x, y)
    for name, spec in METRICS.items():
        assert results[name].remarks == ({"no mask": 6} if spec.needs_mask else {}), name


def test_an_explainer_that_fails_is_remarked_on(digits):
    def broken(x, target=None):
        raise RuntimeError("out of\n luck")

    for result in scored(broken, digits).values():
        assert result.n == 0
        assert result.remarks == {"RuntimeError: out of luck": 6}


def test_an_explainer_that_fails_for_some_perturbed_images_costs_only_those(digits):
    class Touchy(Column):
        calls = 0

        def __call__(self, x, target=None):
            self.calls += 1
            if (self.calls > 1 and len(x) != 1) or (len(x) == 1 and int(target[0]) == 3):
                raise ValueError("not this one")
            return super().__call__(x, target)

    results = scored(Touchy(), digits)
    assert results["MaxSensitivity"].n == 5
    assert results["MaxSensitivity"].remarks == {"ValueError: not this one": 1}
    assert results["Sparseness"].n == 6


def test_a_quantus_metric_that_raises_is_remarked_on(digits, monkeypatch):
    def explode(self, **_):
        raise AttributeError("module 'numpy' has no attribute 'trapz'")

    monkeypatch.setattr("quantus.PixelFlipping.evaluate_batch", explode)
    results = scored(Column(), digits)
    assert results["PixelFlipping"].n == 0
    assert "trapz" in next(iter(results["PixelFlipping"].remarks))
    assert results["MaxSensitivity"].n == 6


def test_global_randomness_and_the_model_stay_as_they_were(digits):
    model = InkIn().train()
    np.random.seed(5)
    torch.manual_seed(5)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = score(METRICS, model, Column(), *digits, seed=3)
    assert np.array_equal(states[0], np.random.get_state()[1])
    assert torch.equal(states[1], torch.get_rng_state())
    assert model.training
    second = score(METRICS, model, Column(), *digits, seed=3)
    for name in METRICS:
        assert np.array_equal(first[name].values, second[name].values), name


def test_scores_do_not_depend_on_who_else_is_in_the_batch(digits):
    names = ["PixelFlipping", "PointingGame", "RelevanceRankAccuracy", "Sparseness"]
    together = scored(Column(), digits, names)
    for index in range(6):
        alone = scored(Column(), tuple(values[index : index + 1] for values in digits), names)
        for name in names:
            assert alone[name].values[0] == pytest.approx(together[name].values[index], 1e-5)


def test_the_model_is_not_kept_alive(digits):
    model = InkIn()
    reference = weakref.ref(model)
    scored(Column(), digits, model=model)
    del model
    gc.collect()
    assert reference() is None


def test_colour_images_are_scored():
    x, y = torch.rand(3, 3, SIZE, SIZE), torch.tensor([0, 1, 2])

    class Grey(InkIn):
        def forward(self, x):
            return super().forward(x.mean(1, keepdim=True))

    results = score(METRICS, Grey().eval(), RandomMap(), x, y, (x[:, :1] > 0.5).float())
    assert all(result.n == 3 for result in results.values())


def test_unknown_metrics_are_refused(digits):
    with pytest.raises(KeyError, match="NoSuchMetric"):
        scored(Column(), digits, ["NoSuchMetric"])


def test_scores_average_what_there_is():
    scores = Scores(np.array([1.0, np.nan, 0.0]))
    assert scores.n == 2
    assert scores.mean == 0.5
