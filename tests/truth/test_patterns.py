"""What tells the class is the pattern and nothing else; the networks have learnt it."""

import effort
import pytest
import torch
from torch import Generator

import dmn.baselines  # noqa: F401  registers the post-hoc methods
from dmn.evaluate import METRICS, score
from dmn.explain.layers import last_stage
from dmn.explain.registry import list_methods
from dmn.split import split
from dmn.truth import BENCHMARKS
from dmn.truth.patterns import CELL, SIDE, VARIANTS, L, T, draw, trained
from dmn.truth.training import accuracy, one_thread, predict

FIXED = [name for name in VARIANTS if name != "rigid"]
TRAINED = effort.slow_except(["linear"], VARIANTS)
IMAGES = 20


@pytest.fixture(scope="module", params=VARIANTS)
def drawn(request):
    with one_thread(0):
        return request.param, draw(request.param, 4000, Generator().manual_seed(7))


def separation(values, labels):
    """Return how far the means of the two classes are apart, in standard errors, by pixel."""
    first, second = (values[labels == label].double() for label in (0, 1))
    error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    return ((second.mean(0) - first.mean(0)) / error).nan_to_num()


def test_images_and_masks_are_of_the_stated_kind(drawn):
    variant, (images, labels, masks) = drawn
    assert images.shape == masks.shape == (4000, 1, SIDE, SIDE)
    assert images.min() >= -0.5
    assert images.max() <= 0.5
    assert (images.abs() == 0.5).float().mean() < 0.01
    assert labels.bincount().min() > 1850
    sizes = masks.flatten(1).sum(1)
    shown = labels >= 0 if variant == "rigid" else labels == 1
    assert set(sizes[shown].tolist()) == {4.0 * CELL**2}
    assert not sizes[~shown].any()


@pytest.mark.parametrize("variant", FIXED)
def test_the_class_shows_in_the_pattern_and_in_no_other_pixel(variant):
    """In the mean and in the spread of each pixel."""
    images, labels, masks = draw(variant, 4000, Generator().manual_seed(8))
    assert torch.equal(masks[labels == 1], T.expand_as(masks[labels == 1]))
    spread = images.square()
    apart = torch.maximum(*(separation(each, labels).abs() for each in (images, spread)))
    assert apart[T == 1].min() > 7
    assert apart[T == 0].max() < 5  # of 960 pixels


def test_in_rigid_the_class_is_the_shape_alone():
    images, labels, masks = draw("rigid", 4000, Generator().manual_seed(8))
    cells = {0: set(), 1: set()}
    for label, mask in zip(labels.tolist(), masks, strict=True):
        rows, columns = (mask[0].any(dim).nonzero().flatten() for dim in (1, 0))
        cut = mask[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cells[label].add(tuple(map(tuple, cut[::CELL, ::CELL].int().tolist())))
        assert torch.equal(cut, cut[::CELL, ::CELL].repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert len(cells[0]) == len(cells[1]) == 4
    assert not cells[0] & cells[1]
    assert masks.mean(0).min() > 0  # any pixel may be of a pattern
    assert separation(images, labels).abs().max() < 6  # no pixel alone says much


def rate(values, labels):
    """Return the accuracy of the best threshold."""
    ordered = labels[values.argsort()].double()
    right = ordered.sum() - ordered.cumsum(0) + (1 - ordered).cumsum(0)
    return right.max().item() / len(labels)


def test_the_suppressor_says_nothing_alone_but_much_beside_the_pattern():
    images, labels, _ = draw("suppressor", 4000, Generator().manual_seed(8))
    on_pattern, beside = ((images * place).flatten(1).sum(1) / 64 for place in (T, L))
    assert rate(beside, labels) < 0.54
    assert rate(on_pattern, labels) < 0.65
    assert rate(on_pattern - beside, labels) > 0.99


def test_pixels_beside_the_pattern_help_in_correlated_noise():
    images, labels, _ = draw("correlated", 4000, Generator().manual_seed(8))
    around = torch.nn.functional.max_pool2d(T, 5, 1, 2) - T
    on_pattern, beside = ((images * m).flatten(1).sum(1) / m.sum() for m in (T, around))
    assert rate(beside, labels) < 0.54
    assert rate(on_pattern - beside, labels) > rate(on_pattern, labels) + 0.1


def test_images_are_drawn_from_the_generator_alone():
    for variant in VARIANTS:
        first, second, other = (draw(variant, 8, Generator().manual_seed(s)) for s in (1, 1, 2))
        assert all(map(torch.equal, first, second))
        assert not torch.equal(first.image, other.image)


@pytest.mark.parametrize("variant", TRAINED)
def test_the_network_has_learnt_the_pattern(variant):
    benchmark = BENCHMARKS[variant](IMAGES, 0)
    unseen = draw(variant, 500, Generator().manual_seed(99))
    assert benchmark.accuracy > 0.96
    assert accuracy(benchmark.model, unseen.image, unseen.label) > 0.95
    images, labels, masks = benchmark.images
    assert torch.equal(predict(benchmark.model, images), labels)
    assert masks.flatten(1).sum(1).tolist() == [4 * CELL**2] * IMAGES
    assert len(images.unique(dim=0)) == IMAGES


@pytest.mark.parametrize("variant", TRAINED)
def test_a_benchmark_is_the_same_each_time(variant):
    few, many = (BENCHMARKS[variant](count, 0) for count in (5, IMAGES))
    assert all(map(torch.equal, few.images, many.images.take(slice(5))))
    few.model[-1].weight.zero_()  # whoever changes a network changes a copy
    assert not torch.equal(few.model[-1].weight, many.model[-1].weight)
    assert torch.equal(BENCHMARKS[variant](5, 0).model[-1].weight, many.model[-1].weight)


@pytest.mark.slow
def test_a_network_trained_anew_has_the_same_bits():
    model, reached = trained("linear", 0)
    again, reached_again = trained.__wrapped__("linear", 0)
    assert reached == reached_again
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_the_network_sees_the_pattern_where_it_is_put():
    model, _ = trained("linear", 0)
    images, _, _ = BENCHMARKS["linear"](100, 0).images
    assert (predict(model, images - 0.09 * T) == 0).float().mean() > 0.95
    unseen, labels, _ = draw("linear", 500, Generator().manual_seed(99))
    absent = unseen[labels == 0]
    assert (predict(model, absent + 0.09 * T) == 1).float().mean() > 0.95
    assert (predict(model, absent + 0.09 * L) == 0).float().mean() > 0.9


@pytest.mark.slow
def test_the_network_uses_the_suppressor():
    model, reached = trained("suppressor", 0)
    images, labels, _ = draw("suppressor", 1000, Generator().manual_seed(99))
    swapped = torch.where(L > 0, images.roll(1, 0), images)  # of another image
    assert accuracy(model, swapped, labels) < 0.75 < reached


@pytest.mark.parametrize("variant", TRAINED)
def test_every_method_is_scored(variant):
    benchmark = BENCHMARKS[variant](3, 0)
    model, (x, y, masks) = benchmark.model, benchmark.images
    pair, layer = split(model, x[:1]), last_stage(model, x[:1])
    (name,) = (name for name, spec in METRICS.items() if spec.benchmark == variant)
    for spec in list_methods():
        if spec.needs_attention:
            continue
        given = {"split": [pair], "post-hoc": [model], "control": []}[spec.kind]
        layers = {"layer": layer if spec.kind == "post-hoc" else pair.cam_layer}
        options = dict(spec.defaults) | (layers if spec.needs_layer else {})
        result = score(name, model, spec.factory(*given, **options), x, y, masks)[name]
        assert result.n == 3, f"{spec.name}: {result.reasons}"
