import gc
import math
import time
import weakref

import numpy as np
import pytest
import torch
from known_maps import ALONE, SIZE, Column, InkIn

from dmn.errors import DataError, TargetError, UnknownNameError
from dmn.evaluate import METRICS, Scores, score
from dmn.evaluate.batch import as_array
from dmn.evaluate.metrics import features_in_step
from dmn.explain import RandomMap


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


def scored(explainer, digits, metrics=ALONE, model=None):
    return score(metrics, (model or InkIn()).eval(), explainer, *digits)


def test_the_right_map_beats_noise_by_every_directed_metric(digits):
    right, noise = scored(Column(), digits), scored(RandomMap(0), digits)
    for name in set(ALONE) - {"RandomLogit"}:
        better = right[name].mean - noise[name].mean
        assert better * (1 if METRICS[name].higher_is_better else -1) > 0, name
        assert right[name].n == 6
        assert not right[name].remarks
    assert right["PointingGame"].mean == 1
    assert right["RelevanceRankAccuracy"].mean == 1
    assert right["RandomLogit"].mean < 0.5


def test_pixel_flipping_is_the_area_of_the_curve_by_hand(digits):
    x, y, _ = digits
    maps, model = Column()(x, y), InkIn().eval().requires_grad_(False)
    result = scored(Column(), digits, ["PixelFlipping"])["PixelFlipping"]
    step = features_in_step((1, SIZE, SIZE))
    order = np.argsort(-maps.flatten(1).numpy(), axis=1)
    for index in range(len(x)):
        flipped, curve = x[index].clone().flatten(), []
        for start in range(0, SIZE * SIZE, step):
            curve.append(float(model(flipped.view(1, 1, SIZE, SIZE)).softmax(1)[0, y[index]]))
            flipped[order[index, start : start + step]] = 0.0
        curve.append(float(model(flipped.view(1, 1, SIZE, SIZE)).softmax(1)[0, y[index]]))
        area = np.trapezoid(curve[1:]) / (len(curve) - 2)
        assert result.values[index] == pytest.approx(area, 1e-5)
        assert result.curves[index] == pytest.approx(curve, 1e-5)


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
    results = score(ALONE, InkIn().eval(), Fixed(torch.zeros(6, 1, SIZE, SIZE)), x, y)
    assert results.pop("PointingGame").remarks == {"map is constant, scored 0": 6}
    for result in results.values():
        assert math.isnan(result.mean)
        assert result.n == 0
        assert result.remarks == {"map is constant": 6}


def test_without_masks_localisation_says_so(digits):
    x, y, _ = digits
    results = score(ALONE, InkIn().eval(), Column(), x, y)
    for name, result in results.items():
        assert result.remarks == ({"no mask": 6} if METRICS[name].needs_mask else {}), name


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
        assert np.array_equal(first[name].values, second[name].values, equal_nan=True), name


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

    results = score(ALONE, Grey().eval(), RandomMap(), x, y, (x[:, :1] > 0.5).float())
    assert all(result.n == 3 for result in results.values())


def test_the_mask_itself_is_the_best_of_maps_in_localisation(digits):
    masks = digits[2]
    names = [name for name in ALONE if METRICS[name].category == "localisation"]
    assert len(names) == 4
    for name, result in scored(Fixed(masks), digits, names).items():
        assert result.values == pytest.approx(np.ones(6)), name
    for name, result in scored(Fixed(1 - masks), digits, names).items():
        assert result.values == pytest.approx(np.zeros(6)), name


def test_random_maps_score_as_chance_does(digits):
    """Localisation is the mask's share of the image, and flipping far from the best."""
    x, y, masks = (values.repeat(20, 1, 1, 1) for values in (digits[0], digits[2], digits[2]))
    x = x + 0.01 * torch.rand_like(x)  # all different, and so are their maps
    y = digits[1].repeat(20)
    names = ["AttributionLocalisation", "RelevanceRankAccuracy", "PointingGame", "PixelFlipping"]
    *located, flipping = scored(RandomMap(0), (x, y, masks), names).values()
    for result in located:
        assert result.mean == pytest.approx(1 / SIZE, abs=0.08)
    best, worst = (
        scored(explainer, (x, y, masks), ["PixelFlipping"])["PixelFlipping"].mean
        for explainer in (Column(), lambda x, target: 1 - Column()(x, target))
    )
    assert best < worst
    assert flipping.mean > best + (worst - best) / 3


def test_batches_bound_what_is_asked_at_once_and_change_nothing(digits):
    most = []

    class Counted(InkIn):
        def forward(self, x):
            most.append(x.numel() / SIZE**2)
            return super().forward(x)

    whole = score(METRICS, InkIn().eval(), Column(), *digits)
    parts = score(METRICS, Counted().eval(), Column(), *digits, batch_size=2)
    assert max(most) <= 6
    for name in ALONE:
        assert parts[name].values == pytest.approx(whole[name].values, rel=1e-5), name
        if whole[name].curves is not None:
            assert parts[name].curves == pytest.approx(whole[name].curves, rel=1e-5)


def test_a_budget_of_time_leaves_the_rest_unscored(digits, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(Column):
        def __call__(self, x, target=None):
            clock[0] += 5
            return super().__call__(x, target)

    model, names = InkIn().eval(), ["RandomLogit", "Sparseness"]
    results = score(names, model, Slow(), *digits, batch_size=2, seconds=4)
    assert results["RandomLogit"].reasons == [""] * 2 + ["budget of 4 s was spent"] * 4
    assert np.isfinite(results["RandomLogit"].values).tolist() == [True] * 2 + [False] * 4
    assert results["RandomLogit"].seconds == 5
    assert results["Sparseness"].n == 6  # each metric has its own time
    nothing = score(METRICS, model, Column(), *digits, seconds=0)
    assert all(result.n == 0 for result in nothing.values())
    assert nothing["GridPointingGame"].remarks["budget of 0 s was spent"] == 4


def test_unknown_metrics_are_refused(digits):
    with pytest.raises(UnknownNameError, match="NoSuchMetric"):
        scored(Column(), digits, ["NoSuchMetric"])


def test_one_metric_may_be_named_by_itself(digits):
    assert list(scored(Column(), digits, "Sparseness")) == ["Sparseness"]
    with pytest.raises(UnknownNameError, match="no metric Sparse; there are"):
        scored(Column(), digits, "Sparse")


def test_lists_and_arrays_are_taken_as_tensors_are(digits):
    x, y, masks = digits
    wanted = scored(Column(), digits)
    for others in ((y.tolist(), masks.numpy()), (y.numpy(), masks.bool()), (y.int(), masks.int())):
        given = scored(Column(), (x, *others))
        for name in ALONE:
            assert np.array_equal(given[name].values, wanted[name].values)


@pytest.mark.torture("scores are asked for with {what}", "refused by name, before anything is done")
@pytest.mark.parametrize(
    "what",
    [
        "images in an array",
        "a class too few",
        "float classes",
        "a mask too few",
        "masks without channel",
        "masks of another size",
    ],
)
def test_what_does_not_fit_the_images_is_refused(what, digits, happened):
    x, y, masks = digits
    wrong, told, error = {
        "images in an array": ((x.numpy(), y), "images are of type ndarray; give a", DataError),
        "a class too few": ((x, y[:5]), r"shape \(5,\), of 6 images", TargetError),
        "float classes": ((x, y.float()), r"target is of torch\.float32", TargetError),
        "a mask too few": ((x, y, masks[:5]), r"\(6, 1, 8, 8\) would do", DataError),
        "masks without channel": (
            (x, y, masks[:, 0]),
            r"masks of shape \(6, 8, 8\)",
            DataError,
        ),
        "masks of another size": ((x, y, masks[..., 1:]), r"\(6, 1, 8, 7\)", DataError),
    }[what]
    with pytest.raises(error, match=told) as caught:
        score(ALONE, InkIn(), lambda *_: pytest.fail("explained all the same"), *wrong)
    happened(str(caught.value))


def test_a_class_that_the_model_does_not_have_is_the_reason_for_no_score(digits):
    x, y, masks = digits
    classes = InkIn()(x).shape[1]
    y[2] = classes
    asking = ["PixelFlipping", "Selectivity", "FaithfulnessCorrelation", "Completeness"]
    told = f"TargetError: the network has no class {classes}; there are 0 to {classes - 1}"
    for result in scored(RandomMap(), (x, y, masks), asking).values():
        assert result.remarks == {told: 1}
        assert np.isfinite(np.delete(result.values, 2)).all()
    game = scored(RandomMap(), (x, y, masks), ["GridPointingGame"])["GridPointingGame"]
    assert game.remarks == {told: 6}  # images of a mosaic are chosen together


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_narrow_numbers_reach_numpy_as_float32(dtype):
    array = as_array(torch.tensor([1.0, -2.0, 0.5]).to(dtype))
    assert array.dtype == np.float32
    assert array.tolist() == [1.0, -2.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int8])
def test_other_numbers_reach_numpy_as_they_are(dtype):
    assert torch.from_numpy(as_array(torch.arange(3).to(dtype))).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_metric_scores_in_half_precision(digits, dtype):
    x, y, masks = digits
    model = InkIn().to(dtype).eval()

    class Narrow(Column):
        def __call__(self, x, target=None):
            return super().__call__(x, target).to(dtype)

    full = scored(Column(), digits, METRICS)
    for explainer in (Narrow(), RandomMap()):
        results = score(METRICS, model, explainer, x.to(dtype), y, masks)
        for name, result in results.items():
            assert result.n == full[name].n, (name, result.remarks)
            assert result.values.dtype == np.float64
    narrow = score(["PixelFlipping", "Sparseness"], model, Narrow(), x.to(dtype), y, masks)
    for name, result in narrow.items():
        assert np.allclose(result.values, full[name].values, atol=0.02), name


class OneLogit(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * (x[..., 0].sum(dim=(1, 2)) - 2)[:, None]


def test_one_logit_is_scored_by_its_sigmoid_as_two_logits_by_their_softmax(digits):
    class TwoLogits(OneLogit):
        def forward(self, x):
            logit = super().forward(x)
            return torch.cat([logit, torch.zeros_like(logit)], dim=1)

    x, _, masks = digits
    asking = [name for name, spec in METRICS.items() if spec.category == "faithfulness"]
    asking.append("Completeness")
    zeros = torch.zeros(6, dtype=torch.long)
    explainer = Fixed(torch.rand(6, 1, SIZE, SIZE))
    one, two = (
        score(asking, model, explainer, x, zeros, masks) for model in (OneLogit(), TwoLogits())
    )
    for name in asking:
        assert np.allclose(one[name].values, two[name].values), name
        assert one[name].n == 6
        assert np.ptp(one[name].values) > 0
    assert np.allclose(one["PixelFlipping"].curves, two["PixelFlipping"].curves)


def test_one_logit_has_no_other_class_to_compare_with(digits):
    x, _, masks = digits
    asking = ["RandomLogit", "GridPointingGame"]
    logit, game = score(asking, OneLogit(), Column(), x, [0] * 6, masks).values()
    assert logit.remarks == {
        "TargetError: this score needs two classes, and the network has one logit": 6
    }
    assert game.remarks == {"left over by mosaics of 4 classes": 6}


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("beside", [0.0, -1.0, 1.0])
def test_a_map_is_scored_only_if_all_of_it_is_finite_and_some_of_it_positive(value, beside, digits):
    """One pixel of a value, among others: zeros and negatives together, infinity beside numbers."""
    maps = Column()(*digits[:2])
    maps[1] = beside
    maps[1, 0, 0, 0] = value
    result = scored(Fixed(maps), digits, ["Sparseness"])["Sparseness"]
    reason = (
        "map is not finite"
        if not math.isfinite(value)
        else "map is constant"
        if value == beside
        else "map is nowhere positive"
        if beside <= 0
        else ""
    )
    assert result.reasons[1] == reason
    assert result.n == 6 - bool(reason)


def test_masks_are_of_0_and_1_and_not_empty(digits):
    x, y, masks = digits
    masks[0, 0, 0, 0], masks[1, 0, 0, 0], masks[2, 0, 0, 0] = 0.5, math.nan, -1
    masks[3] = 0
    masks[4] = 1
    result = scored(Column(), (x, y, masks), ["PointingGame"])["PointingGame"]
    assert result.reasons == [*["mask is not of 0 and 1"] * 3, "mask is empty", "", ""]


def test_scores_average_what_there_is():
    scores = Scores(np.array([1.0, np.nan, 0.0]))
    assert scores.n == 2
    assert scores.mean == 0.5
