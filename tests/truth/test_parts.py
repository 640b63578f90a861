"""Digits of strokes: what is drawn, what is missing, and what the network makes of it."""

from itertools import combinations

import pytest
import torch

from dmn.baselines import InputXGradient
from dmn.data.scenes import draw_backgrounds
from dmn.evaluate import score
from dmn.explain import controls
from dmn.truth import BENCHMARKS, parts
from dmn.truth.parts import (
    DIGIT_DRAWS,
    DRAWS,
    PARTS,
    SEGMENTS,
    SIZE,
    draw_digits,
    draw_parts,
    part_benchmark,
    unambiguous,
)

COUNT = 24


def hardly_trained(count, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "TRAINING_IMAGES", 640)
        patch.setattr(parts, "TEST_IMAGES", 64)
        return part_benchmark(count, seed)


@pytest.fixture(scope="module")
def quick():
    """A benchmark with a network that is hardly trained."""
    return hardly_trained(COUNT, 0)


def test_digits_are_those_of_seven_segments():
    shown = [
        "abcdef",
        "bc",
        "abdeg",
        "abcdg",
        "bcfg",
        "acdfg",
        "acdefg",
        "abc",
        "abcdefg",
        "abcdfg",
    ]
    assert SEGMENTS.tolist() == [[letter in digit for letter in "abcdefg"] for digit in shown]


@pytest.mark.parametrize("missing", [1, 2])
def test_incomplete_digits_are_nearest_to_their_own_class(missing):
    digits = [{i for i in range(7) if row[i]} for row in SEGMENTS.tolist()]
    expected = set()
    for label, digit in enumerate(digits):
        for absent in combinations(digit, missing):
            left = digit - set(absent)
            lacks = {other: len(d - left) for other, d in enumerate(digits) if left <= d}
            if left and [o for o, n in lacks.items() if n == min(lacks.values())] == [label]:
                expected.add((label, frozenset(left)))
    listed = unambiguous(missing)
    assert len(listed) == len(expected)
    assert {(y, frozenset(p.nonzero().flatten().tolist())) for y, p in listed} == expected


def test_parts_have_the_same_size_lie_apart_and_in_the_image():
    ink = draw_parts(torch.rand(400, DIGIT_DRAWS))
    pixels = (ink > 0).sum(dim=(2, 3)).double()
    assert pixels.min() > 10
    assert (pixels.mean(dim=0) / pixels.mean() - 1).abs().max() < 0.03
    assert (ink.sum(dim=1) - ink.amax(dim=1)).max() < 0.3  # at the edges of two parts, at most
    outside = [ink[..., 0, :], ink[..., -1, :], ink[..., 0], ink[..., -1]]
    assert max(edge.max() for edge in outside) < 0.5


def test_an_image_without_a_part_is_the_same_outside_the_part():
    draws = torch.rand(8, DRAWS)
    whole = draw_digits(draws, SEGMENTS[[8] * 8], "test")
    ink = draw_parts(draws[:, -DIGIT_DRAWS:])
    for index in range(len(PARTS)):
        present = SEGMENTS[[8] * 8].clone()
        present[:, index] = False
        differs = (draw_digits(draws, present, "test") != whole).any(dim=1)
        assert not (differs & (ink[:, index] == 0)).any()
        assert differs.flatten(1).any(dim=1).all()


def test_below_the_parts_is_the_photograph():
    draws = torch.rand(3, DRAWS)
    nothing = draw_digits(draws, torch.zeros(3, 7, dtype=torch.bool), "test")
    photograph = draw_backgrounds("test", draws[:, :4], SIZE)
    ink = draw_parts(draws[:, -DIGIT_DRAWS:]).amax(dim=1)
    distractors = (nothing != photograph).any(dim=1)
    assert 0 < distractors.double().mean() < 0.3
    assert torch.equal(
        nothing.movedim(1, -1)[~distractors], photograph.movedim(1, -1)[~distractors]
    )
    assert ink.max() == 1


def test_images_masks_and_classes(quick):
    image, label, mask = quick.images
    assert image.shape == (COUNT, 3, SIZE, SIZE)
    assert mask.shape == (COUNT, 1, SIZE, SIZE)
    assert 0 <= image.min() < image.max() <= 1
    assert torch.equal(quick.model(image).argmax(dim=1), label)
    assert not quick.model.training
    assert not any(p.requires_grad for p in quick.model.parameters())
    for each, digit in zip(mask, label, strict=True):
        assert len(each[each != 0].unique()) == SEGMENTS[digit].sum()


def test_the_mask_is_the_fall_of_the_logit_when_a_part_is_covered(quick):
    """Images are drawn again by the same random numbers, and evaluated in float64."""
    image, label, mask = quick.images
    precise = quick.model.double()
    generator = torch.Generator().manual_seed(2)
    draws = torch.rand(parts.CHUNK, DRAWS, generator=generator)
    labels = torch.randint(10, (parts.CHUNK,), generator=generator)
    row, found = 0, 0
    while found < 5:
        whole = draw_digits(draws[row : row + 1], SEGMENTS[labels[row : row + 1]], "test")
        if torch.equal(whole[0], image[found]):
            assert labels[row] == label[found]
            ink = draw_parts(draws[row : row + 1, -DIGIT_DRAWS:])[0]
            for index in SEGMENTS[label[found]].nonzero().flatten():
                present = SEGMENTS[labels[row : row + 1]].clone()
                present[0, index] = False
                without = draw_digits(draws[row : row + 1], present, "test")
                logits = precise(torch.cat([whole, without]).double())[:, label[found]]
                place = ink[index].argmax()
                fall = (logits[0] - logits[1]).item()
                assert mask[found].flatten()[place].item() == pytest.approx(fall, abs=1e-4)
            found += 1
        row += 1
    quick.model.float()


def test_the_right_map_scores_1(quick):
    image, label, mask = quick.images
    result = score("PartRemoval", quick.model, lambda x, target: mask, image, label, mask)
    assert result["PartRemoval"].values.tolist() == [1] * COUNT


@pytest.mark.slow
def test_other_seeds_give_other_images_and_the_first_do_not_depend_on_how_many(quick):
    few, other = hardly_trained(3, 0), hardly_trained(3, 1)
    assert torch.equal(few.images.image, quick.images.image[:3])
    assert torch.equal(few.images.mask, quick.images.mask[:3])
    assert few.accuracy == quick.accuracy
    assert not torch.equal(other.images.image, few.images.image)


@pytest.mark.slow
def test_the_network_knows_its_digits_and_methods_beat_controls():
    made = BENCHMARKS["parts"](100, 0)
    model, (image, label, mask), accuracy = made.model, made.images, made.accuracy
    assert accuracy > 0.96

    def mean(explainer):
        return score("PartRemoval", model, explainer, image, label, mask)["PartRemoval"].mean

    assert mean(InputXGradient(model)) > 0.7
    assert all(abs(mean(control)) < 0.2 for control in controls().values())
