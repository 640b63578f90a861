"""A network set by hand: that it computes what it is said to, in every pixel."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.evaluate import METRICS, score
from dmn.explain import RandomMap, list_methods
from dmn.explain.layers import last_stage
from dmn.split import split
from dmn.truth import BENCHMARKS
from dmn.truth.constructed import NAMES, SIGNS, ConstructedCNN, constructed, draw_scene, glyphs

SEEDS = [0, 1, 7]


def find(image):
    """Return all glyphs in an image (32, 32), each as often as it is there, by comparison."""
    drawn = glyphs()
    windows = image.unfold(0, 5, 1).unfold(1, 5, 1).reshape(-1, 5, 5)
    return sorted(
        glyph for glyph in range(8) for window in windows if torch.equal(window, drawn[glyph])
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_logits_are_the_bias_and_the_weights_of_the_glyphs(seed):
    model = ConstructedCNN(seed, torch.float64)
    random = torch.Generator().manual_seed(seed)
    for _ in range(40):
        scene = draw_scene(random)
        present = find(scene.image[0])
        assert present == sorted(scene.glyphs.tolist())
        expected = model.bias + sum(model.weights[:, glyph] for glyph in present)
        assert torch.allclose(model(scene.image[None].double())[0], expected, atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_known_answer_is_the_effect_of_each_pixel(seed):
    benchmark = constructed(2, seed)
    model = ConstructedCNN(seed, torch.float64)
    for image, label, mask in zip(*benchmark.images, strict=True):
        dark = 1 - torch.eye(32 * 32, dtype=torch.float64).view(-1, 1, 32, 32)
        image = image.double()
        falls = model(image[None])[0, label] - model(image * dark)[:, label]
        assert torch.allclose(falls.view_as(mask), mask.double(), atol=1e-6)


def test_a_lit_ground_pixel_within_a_glyph_hides_it():
    model = ConstructedCNN(0, torch.float64)
    image = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    image[0, 0, 4:9, 4:9] = glyphs()[0]
    assert (model(image) - model.bias).abs().max() > 1
    image[0, 0, 4, 4] = 1
    assert torch.allclose(model(image)[0], model.bias, atol=1e-10)


def test_classes_share_evidence_so_that_their_mean_is_constant():
    assert (SIGNS.sum(dim=0) == 0).all()
    assert ((SIGNS > 0).sum(dim=1) == 2).all()
    assert ((SIGNS < 0).sum(dim=1) == 2).all()
    model = ConstructedCNN(3)
    assert torch.equal(model.weights.sign().to(SIGNS), SIGNS)


def test_the_glyph_of_no_effect_is_found_and_its_features_cancel():
    model = ConstructedCNN(0, torch.float64)
    images = torch.zeros(3, 1, 32, 32, dtype=torch.float64)
    for place, name in enumerate(("cup", "diamond")):
        images[place, 0, 4:9, 4:9] = glyphs()[NAMES.index(name)]
    features = []
    with model.mean.register_forward_hook(lambda module, args, out: features.append(out)):
        logits = model(images)
    cup, diamond, empty = features[0].flatten(1)
    assert (cup > 1e-4).all()
    assert torch.equal(diamond, empty)
    assert torch.allclose(logits, model.bias.expand(3, -1), atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_are_other_weights_of_the_same_kind(seed):
    model = ConstructedCNN(seed)
    for norm in (module for module in model if isinstance(module, nn.BatchNorm2d)):
        assert norm.running_mean.std() > 0.1
        assert norm.running_var.std() > 0.1
        assert norm.weight.abs().std() > 0.1
    assert torch.equal(model.conv1.weight, ConstructedCNN(seed).conv1.weight)
    assert not torch.equal(model.conv1.weight, ConstructedCNN(seed + 1).conv1.weight)


def test_images_are_classified_correctly_and_hold_every_sign():
    made = BENCHMARKS["constructed"](24, 5)
    model, images, accuracy = made.model, made.images, made.accuracy
    assert accuracy is None
    assert torch.equal(model(images.image).argmax(dim=1), images.label)
    assert set(images.image.unique().tolist()) == {0, 1}
    for image, mask in zip(images.image, images.mask, strict=True):
        lit = mask[image > 0]
        assert (lit > 0).any()
        assert (lit < 0).any()
        assert (lit == 0).any()
        assert (mask[image == 0] == 0).all()
    again = constructed(24, 5).images
    assert all(torch.equal(*pair) for pair in zip(images, again, strict=True))
    assert torch.equal(constructed(3, 5).images.image, images.image[:3])


def test_every_method_explains_it():
    made = constructed(3, 0)
    model, (x, y, _) = made.model, made.images
    pair, layer = split(model, x[:1]), last_stage(model, x[:1])
    for spec in list_methods():
        if spec.needs_attention:
            continue
        options = {"layer": layer} if spec.needs_layer and spec.kind != "split" else {}
        network = {"control": [], "split": [pair]}.get(spec.kind, [model])
        maps = spec.factory(*network, **options)(x, y)
        assert maps.shape == x.shape, spec.name
        assert maps.isfinite().all(), spec.name


def test_perfect_and_random_maps_score_as_stated():
    made = constructed(200, 1)
    model, (x, y, mask) = made.model, made.images
    names = [name for name, spec in METRICS.items() if spec.benchmark == "constructed"]
    right = score(
        names, model, lambda images, target: mask[: len(images)], x, y, mask, batch_size=200
    )
    for name in names:
        assert (right[name].values == 1).all()
    chance = {"PositivePrecision": mask > 0, "NegativePrecision": mask < 0}
    for explain in (RandomMap(), lambda images, target: RandomMap()(images) - 0.5):
        scored = score(names, model, explain, x, y, mask)
        for name, true in chance.items():
            share = true.float().mean().item()
            assert scored[name].mean == pytest.approx(share, abs=0.006), name


def test_positive_propagation_is_blind_to_the_sign():
    """As known of Guided Backprop and Excitation Backprop; SplitLRP is not."""
    made = constructed(12, 0)
    model, (x, y, mask) = made.model, made.images
    scores = {}
    for name in ("GuidedBackprop", "ExcitationBackprop", "SplitLRP"):
        spec = next(spec for spec in list_methods() if spec.name == name)
        network = split(model, x[:1]) if spec.kind == "split" else model
        made = score(["NegativePrecision"], model, spec.factory(network), x, y, mask)
        scores[name] = made["NegativePrecision"].mean
    assert scores["GuidedBackprop"] < 0.05
    assert scores["ExcitationBackprop"] < 0.05
    assert scores["SplitLRP"] > 0.95


def test_glyphs_are_told_apart_by_any_shift():
    drawn = F.pad(glyphs(), (4, 4, 4, 4))
    for one in range(8):
        windows = drawn[one].unfold(0, 5, 1).unfold(1, 5, 1).reshape(-1, 5, 5)
        hits = [sum(torch.equal(w, glyph) for w in windows) for glyph in glyphs()]
        assert hits == [int(other == one) for other in range(8)]
