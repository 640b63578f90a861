"""A target is one class for all images or one for each; all else is refused by what it is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_pairs import fronted_pair, tiny_pair

from dmn.errors import TargetError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP, explain_together, resolve_target
from dmn.explain.controls import RandomMap
from dmn.explain.target import probabilities
from dmn.nn import check_target, select_output
from dmn.split import FrontAdapter, split
from dmn.train.penalty import evidence

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
WRONG = {
    "a number that is not whole": (1.5, r"target is 1\.5; give the index of a class, or a list"),
    "a whole number that is a float": (1.0, r"target is 1\.0; give the index"),
    "a truth value": (True, r"target is True; give the index"),
    "a truth value of numpy": (np.bool_(True), r"target is .*True.*; give the index"),
    "a name": ("cat", r"target is 'cat'; give the index"),
    "names": (["cat"] * 5, r"target is \['cat', .*; give the index"),
    "lists of unequal length": ([[0], [1, 2]], r"target is \[\[0\], \[1, 2\]\]; give the index"),
    "nothing": ([], r"target is \[\]; give the index"),
    "floats": (torch.zeros(5), r"target is of torch\.float32, shape \(5,\); give the index"),
    "truth values": (torch.zeros(5).bool(), r"target is of torch\.bool, shape \(5,\); give"),
    "an array of floats": (np.zeros(5), r"target is of float64, shape \(5,\); give the index"),
    "one-hot integers": (torch.eye(5, 3).long(), r"shape \(5, 3\), of 5 images; give one index"),
    "a column": (np.zeros((5, 1), int), r"shape \(5, 1\), of 5 images; .* or \(5,\), one for each"),
    "one in a tensor": (torch.tensor([1]), r"shape \(1,\), of 5 images; give one index for all"),
    "too few": ([0, 1, 2], r"shape \(3,\), of 5 images; give one index for all"),
    "too many": (torch.zeros(6).long(), r"shape \(6,\), of 5 images; give one index for all"),
    "a negative one": (-1, r"target -1 is negative; classes are counted from 0"),
    "a negative one among others": ([0, 1, -2, 1, 0], r"target -2 is negative"),
}
TOO_LARGE = {"one": (3, "no class 3;"), "one of some": ([0, 1, 2, 7, 0], "no class 7;")}


def explainers():
    """Make one of every kind that reads a target: it takes images and a target."""
    pair, network = tiny_pair(), torch.nn.Conv2d(1, 3, 8).double()
    split_network = split(torch.nn.Sequential(network, torch.nn.Flatten()).eval(), IMAGES)
    return {
        **{kind.__name__: kind(pair, "stem") for kind in (SplitCAM, SplitGrad, SplitLRP)},
        "contrast": SplitLRP(pair, contrast=True),
        "split": SplitCAM(split_network, contrast=True),
        "together": lambda x, t: torch.cat(
            explain_together([SplitCAM(pair), SplitLRP(pair)], x, t)
        ),
        "streams": lambda x, t: SplitCAM(pair).streams(x, t).difference,
        "explain": pair.explain,
        "front": SplitCAM(FrontAdapter(FRONTED)),
    }


IMAGES = torch.rand(5, 1, 8, 8, dtype=torch.float64)
FRONTED = fronted_pair()
KINDS = explainers()


def images_for(kind):
    return torch.rand(5, 3, 16, 16, dtype=torch.float64) if kind == "front" else IMAGES


@pytest.mark.torture("a target that is {what}", "refused by what was given, and what would do")
@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_target_is_refused_by_everything_that_reads_one(what, happened):
    target, told = WRONG[what]
    for kind, explain in {**KINDS, "random": RandomMap()}.items():
        with pytest.raises(TargetError, match=told) as caught:
            explain(images_for(kind), target)
        assert "\n" not in str(caught.value)
    happened(str(caught.value))


@pytest.mark.parametrize("what", TOO_LARGE)
@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_the_network_does_not_have_are_refused(kind, what):
    target, told = TOO_LARGE[what]
    with pytest.raises(TargetError, match=f"the network has {told} there are 0 to 2"):
        KINDS[kind](images_for(kind), target)
    KINDS[kind](images_for(kind), 2)


def test_the_penalty_refuses_them_too():
    with pytest.raises(TargetError, match="no class 3; there are 0 to 2"):
        evidence(tiny_pair(), IMAGES, torch.tensor([0, 1, 2, 3, 0]), "stem", "g")


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_of_any_integers_is_taken_for_what_it_says(kind):
    explain, x, numbers = KINDS[kind], images_for(kind), [2, 0, 1, 1, 2]
    wanted = explain(x, torch.tensor(numbers))
    forms = [numbers, tuple(numbers), np.array(numbers, np.uint16), np.array(numbers, np.int64)]
    for form in (*forms, *(torch.tensor(numbers, dtype=kind) for kind in INTEGERS)):
        assert torch.equal(explain(x, form), wanted)
    wanted = explain(x, torch.ones(5, dtype=torch.long))
    for form in (1, np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)):
        assert torch.equal(explain(x, form), wanted)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.sampled_from(INTEGERS))
def test_resolved_targets_are_one_index_an_image(numbers, kind):
    x = torch.rand(len(numbers), 1, 2, 2)
    for form in (numbers, np.array(numbers), torch.tensor(numbers, dtype=kind)):
        resolved = resolve_target(torch.nn.Identity(), x, form)
        assert resolved.dtype == torch.long
        assert resolved.tolist() == numbers
    assert resolve_target(torch.nn.Identity(), x, numbers[0]).tolist() == numbers[:1] * len(numbers)


def test_a_given_target_costs_no_forward_pass():
    def asked(x):
        raise AssertionError

    assert resolve_target(asked, IMAGES, 1).tolist() == [1] * 5


@given(st.integers(1, 5), st.integers(-3, 7))
def test_the_range_is_that_of_the_logits(classes, index):
    target = torch.tensor([0, index])
    if 0 <= index < classes:
        check_target(torch.zeros(2, classes), target)
        return
    there_are = f"there are 0 to {classes - 1}" if classes > 1 else "its one logit is class 0"
    with pytest.raises(TargetError, match=f"no class {index}; {there_are}"):
        check_target(torch.zeros(2, classes), target)


@pytest.mark.torture(
    "a network of one logit is to be contrasted", "refused, in place of a zero map"
)
@pytest.mark.parametrize("method", [SplitCAM, SplitGrad, SplitLRP])
def test_one_logit_has_maps_and_nothing_to_be_contrasted_with(method, happened):
    pair = tiny_pair(num_classes=1)
    for target in (None, 0):
        assert (method(pair)(IMAGES, target).abs().amax((1, 2, 3)) > 0).all()
    with pytest.raises(TargetError, match="needs two classes, and the network has one") as caught:
        method(pair, contrast=True)(IMAGES)
    happened(str(caught.value))
    for seed in ("contrast", "all"):
        with pytest.raises(TargetError, match="needs two classes"):
            select_output(torch.zeros(2, 1), torch.tensor([0, 0]), seed)


def test_probabilities_of_one_logit_are_the_sigmoid():
    logits = torch.randn(4, 3)
    assert torch.equal(probabilities(logits), logits.softmax(1))
    two = torch.stack([torch.zeros(4), logits[:, 0]], dim=1)
    assert torch.allclose(probabilities(logits[:, :1])[:, 0], two.softmax(1)[:, 1])
