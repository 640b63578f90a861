"""What breaks in bare Quantus 0.6, shown first, and that the guard mends it."""

import gc
import inspect
import time
import warnings
import weakref

import numpy as np
import pytest
import quantus
import torch
from known_maps import ALONE, SIZE, Column, InkIn
from torch import nn

from dmn.evaluate import METRICS, score
from dmn.evaluate.batch import ExplainedBatch
from dmn.explain import RandomMap

STRIPES = torch.arange(SIZE).repeat(SIZE, 1).view(1, 1, SIZE, SIZE) / SIZE


def bare(name, x, y, a, s=None, explain=None, model=None, softmax=True, **options):
    """Call Quantus as its documentation says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(quantus, name)(disable_warnings=True, **options)(
            model=(model or InkIn()).eval(),
            x_batch=x.numpy(),
            y_batch=y.numpy(),
            a_batch=a.numpy().copy(),
            s_batch=None if s is None else s.numpy(),
            channel_first=True,
            explain_func=lambda model, inputs, targets, **_: explain(
                torch.as_tensor(inputs).float(), torch.as_tensor(targets)
            ).numpy(),
            softmax=softmax,
            device="cpu",
        )


def guarded(name, x, y, a, s=None, explain=None, model=None):
    """Ask for the same, of an explainer that gives these maps first."""

    class First:
        calls = 0

        def __call__(self, images, target):
            self.calls += 1
            return a if self.calls == 1 else explain(images, target)

    return score([name], (model or InkIn()).eval(), First(), x, y, s)[name]


def batch_of(shape=(3, 28, 28)):
    x = torch.rand(1, *shape)
    return ExplainedBatch(InkIn(10).eval(), Column(), x, torch.zeros(1).long(), None, x[:, :1], 0)


@pytest.fixture
def x():
    return torch.rand(3, 1, SIZE, SIZE) * 0.5 + 0.3


@pytest.fixture
def y():
    return torch.tensor([0, 1, 2])


@pytest.fixture
def masks():
    return (STRIPES > 0.5).float().repeat(3, 1, 1, 1)


def test_areas_under_curves(x, y):
    with pytest.raises((AttributeError, DeprecationWarning), match="trapz"):
        quantus.helpers.utils.calculate_auc(np.ones(3))
    for name in ("PixelFlipping", "Selectivity"):
        assert guarded(name, x, y, Column()(x, y)).n == 3


def test_empty_masks_and_constant_maps_are_no_hits(x, y, masks):
    a, s = STRIPES.repeat(3, 1, 1, 1), masks.clone()
    s[0], a[1] = 0, 0.5
    assert bare("PointingGame", x, y, a, s) == [True, True, True]
    result = guarded("PointingGame", x, y, a, s)
    assert result.values[1:].tolist() == [0, 1]
    assert result.reasons == ["mask is empty", "map is constant, scored 0", ""]


def test_negative_evidence_is_not_localised(x, y, masks):
    a = torch.where(masks > 0, -1.0, 0.1) * (1 + STRIPES)
    assert min(bare("AttributionLocalisation", x, y, a, masks)) > 0.8
    assert guarded("AttributionLocalisation", x, y, a, masks).mean == 0


def test_mass_accuracy_is_a_share(x, y, masks):
    a = torch.where(masks > 0, 1.0, -0.58)
    assert max(bare("RelevanceMassAccuracy", x, y, a, masks)) > 3
    share = guarded("RelevanceMassAccuracy", x, y, a, masks).values
    assert ((share > 0) & (share < 1)).all()


def test_maps_of_three_channels_are_named():
    x, y, s = torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 1]), torch.ones(2, 1, SIZE, SIZE)
    with pytest.raises(ValueError, match="broadcast"):
        bare("AttributionLocalisation", x, y, x, s)
    results = score(["AttributionLocalisation"], InkIn().eval(), lambda x, target: x, x[:1], y[:1])
    (reason,) = results["AttributionLocalisation"].remarks
    assert reason == "DataError: maps of shape (1, 3, 8, 8); (1, 1, 8, 8) would do"


def test_maps_are_not_normalised_by_the_batch(x, y):
    def explain(images, target):
        power = torch.as_tensor(target).view(-1, 1, 1, 1) + 1.0
        return images**power * 100 ** (power - 1)

    y = y % 2
    a = explain(x, y)
    alone = bare("RandomLogit", x[:1], y[:1], a[:1], explain=explain, num_classes=2)
    together = bare("RandomLogit", x, y, a, explain=explain, num_classes=2)
    assert alone[0] != pytest.approx(together[0], rel=0.01)

    model = InkIn(2)
    alone = guarded("RandomLogit", x[:1], y[:1], a[:1], explain=explain, model=model)
    together = guarded("RandomLogit", x, y, a, explain=explain, model=model)
    assert alone.values[0] == pytest.approx(together.values[0], rel=1e-4)


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_map_without_evidence_is_only_its_own_fault(x, y, factor):
    a = Column()(x, y)
    with pytest.raises(AssertionError):
        bare("Sparseness", x, y, a * factor - 0.01)
    bare("Sparseness", x, y, torch.cat([a[:2], a[2:] * factor - 0.01]))  # the others hide it
    result = guarded("Sparseness", x, y, torch.cat([a[:2], a[2:] * factor - 0.01]))
    assert np.isfinite(result.values).tolist() == [True, True, False]
    assert result.reasons[2] in ("map is constant", "map is nowhere positive")


def test_a_map_that_vanishes_under_noise_is_scored_alike_in_any_batch(x, y):
    def vanish(images, target):
        return 0 * images

    a = Column()(x, y)
    with pytest.raises(AssertionError, match="all equal to zero"):
        bare("MaxSensitivity", x, y, a, explain=vanish, nr_samples=2)
    assert guarded("MaxSensitivity", x, y, a, explain=vanish).values == pytest.approx([1, 1, 1])


def test_perturb_functions_of_old_do_not_work_and_are_not_used(x, y):
    old = quantus.perturb_func.baseline_replacement_by_indices
    with pytest.raises(TypeError, match="indexed_axes"):
        bare("PixelFlipping", x, y, Column()(x, y), features_in_step=8, perturb_func=old)
    for name in ("PixelFlipping", "Selectivity", "FaithfulnessCorrelation"):
        assert guarded(name, x, y, Column()(x, y)).n == 3


def test_the_baseline_does_not_drift(x, y):
    """Flipped to the mean, pixels end at many values; ours all end at 0."""

    class Spread(InkIn):
        def forward(self, x):
            self.last = x
            return super().forward(x)

    model = Spread()
    bare(
        "PixelFlipping",
        x,
        y,
        Column()(x, y),
        model=model,
        perturb_baseline="mean",
        features_in_step=8,
    )
    assert model.last.flatten(1).std(1).min() > 0.001
    curves = guarded("PixelFlipping", x, y, Column()(x, y)).curves
    assert curves[:, -1] == pytest.approx([0.25] * 3)  # no ink, no preference
    assert curves[:, 0] == pytest.approx(InkIn()(x).softmax(1)[range(3), y].tolist())


def test_softmax_is_always_told(x, y):
    defaults = {
        inspect.signature(getattr(quantus, name).__call__).parameters["softmax"].default
        for name in ("PixelFlipping", "FaithfulnessCorrelation", "RandomLogit")
    }
    assert defaults == {True, False}

    class Attentive(InkIn):
        def __init__(self):
            super().__init__()
            self.attention = nn.Softmax(dim=1)  # registered last, not applied last

        def forward(self, x):
            return super().forward(x) + 5 + 0 * self.attention(x.flatten(1)).sum()

    curves = bare("PixelFlipping", x, y, Column()(x, y), model=Attentive(), features_in_step=8)
    assert np.max(curves) > 1
    assert guarded("PixelFlipping", x, y, Column()(x, y), model=Attentive()).curves.max() < 1


def test_one_score_an_image(x, y):
    a = Column()(x, y)
    one = bare("FaithfulnessCorrelation", x, y, a, nr_runs=5, subset_size=8)
    assert len(one) == 1
    assert guarded("FaithfulnessCorrelation", x, y, a).n == 3


def test_completeness_forgives_rounding(x, y):
    a = (Column()(x, y) * 5 / SIZE).float()  # the logits, exactly but for rounding
    model = InkIn()
    assert not np.all(bare("Completeness", x, y, a * 1.00001, softmax=False, model=model))
    assert guarded("Completeness", x, y, a * 1.00001).values == pytest.approx([0] * 3, abs=1e-4)
    assert guarded("Completeness", x, y, a * 3).values == pytest.approx([2] * 3, abs=1e-4)
    blank = torch.zeros_like(x)
    assert guarded("Completeness", blank, y, a).remarks == {"the score is not a number": 3}


def test_masks_other_than_0_and_1_cost_only_themselves(x, y, masks):
    masks[1] *= 0.5
    a = STRIPES.repeat(3, 1, 1, 1)
    with pytest.raises(AssertionError):
        bare("PointingGame", x, y, a, masks)
    assert guarded("PointingGame", x, y, a, masks).reasons == ["", "mask is not of 0 and 1", ""]


def test_quantus_changes_nothing_that_is_not_its_own(x, y):
    """It adds to maps, draws from the global state and keeps models and scores; not through us."""
    a, model = Column()(x, y), InkIn()
    maps = a.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus.Sparseness(abs=False, normalise=False)(
            model.eval(), x.numpy(), y.numpy(), maps, channel_first=True
        )
    assert not torch.equal(a, Column()(x, y))
    np.random.seed(0)
    before = np.random.get_state()[2]
    bare("FaithfulnessCorrelation", x, y, a, nr_runs=2, subset_size=8, model=model)
    assert np.random.get_state()[2] != before
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is not None

    a, state = Column()(x, y), np.random.get_state()
    score(ALONE, InkIn().eval(), lambda *_: a, x, y)
    assert torch.equal(a, Column()(x, y))
    assert np.array_equal(np.random.get_state()[1], state[1])
    gc.collect()
    assert reference() is None  # Quantus' caches are emptied


def test_quantus_is_silent_and_does_not_sleep(monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "1")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("slept"))
    quantus.AttributionLocalisation(abs=False, disable_warnings=True)
    assert "absolute operation" in capsys.readouterr().out
    for spec in METRICS.values():
        if hasattr(spec.measure, "build"):
            spec.measure.build(batch_of())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["MaxSensitivity", "FaithfulnessCorrelation", "RandomLogit"])
def test_quantus_draws_by_the_place_in_the_batch(x, y, name):
    """What the next test holds of ours."""
    options = {
        "MaxSensitivity": {"nr_samples": 3},
        "FaithfulnessCorrelation": {"nr_runs": 5, "subset_size": 8, "return_aggregate": False},
        "RandomLogit": {"num_classes": 8},
    }[name]

    def explain(images, target):
        return images ** (torch.as_tensor(target).view(-1, 1, 1, 1) + 1.0)

    np.random.seed(0)
    there = bare(name, x, y, explain(x, y), explain=explain, **options)
    np.random.seed(0)
    turned = (x.flip(0), y.flip(0), explain(x, y).flip(0))
    back = bare(name, *turned, explain=explain, **options)[::-1]
    assert there != pytest.approx(back, rel=1e-3)


@pytest.mark.parametrize("explainer", [Column(), RandomMap(1)], ids=["right", "random"])
def test_scores_do_not_depend_on_the_batch(explainer):
    x, y = torch.rand(5, 1, SIZE, SIZE), torch.tensor([3, 1, 0, 2, 1])
    masks = (torch.rand(5, 1, SIZE, SIZE) > 0.5).float()
    model = InkIn(8).eval()
    together = score(ALONE, model, explainer, x, y, masks, seed=2)
    turned = score(
        ALONE, model, explainer, x.flip(0), y.flip(0), masks.flip(0), seed=2, batch_size=2
    )
    other = score(["MaxSensitivity", "RandomLogit"], model, explainer, x, y, seed=3)
    for name, result in together.items():
        assert result.n == 5
        assert turned[name].values[::-1] == pytest.approx(result.values, rel=1e-4, abs=1e-6), name
    for name, result in other.items():
        assert not np.array_equal(result.values, together[name].values), name
