"""A target is one class for all images or one for each; all else is refused by what it is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_pairs import fronted_pair, tiny_pair

from dmn.baselines import Gradient, LRPEpsilon
from dmn.errors import TargetError, UnknownNameError
from dmn.evaluate import score
from dmn.explain import SplitCAM, SplitGrad, SplitLRP, explain_together, resolve_target
from dmn.explain.controls import RandomMap
from dmn.explain.target import class_names, find_class, probabilities
from dmn.nn import check_target, select_output
from dmn.split import FrontAdapter, split
from dmn.train.penalty import evidence

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
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
    forms += [[np.int32(number) for number in numbers], [torch.tensor(n) for n in numbers]]
    for form in (*forms, *(torch.tensor(numbers, dtype=kind) for kind in INTEGERS + UNSIGNED)):
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


NAMES = ["tiger cat", "Crane", "crane", "Äpfel"]


def named_networks():
    """Make networks that know their classes by name, each with a method that explains it."""
    torch.manual_seed(0)
    ordinary = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)).double().eval()
    pair, fronted = tiny_pair(num_classes=4), fronted_pair()
    ordinary.classes, pair.classes, fronted.classes = NAMES, tuple(NAMES), NAMES[:3]
    return {
        "post-hoc": (Gradient(ordinary), IMAGES),
        "rewritten": (LRPEpsilon(ordinary), IMAGES),
        "trained pair": (SplitCAM(pair, "stem"), IMAGES),
        "its own method": (pair.explain, IMAGES),
        "split": (SplitLRP(split(ordinary, IMAGES)), IMAGES),
        "front": (SplitGrad(FrontAdapter(fronted)), images_for("front")),
    }


@pytest.mark.parametrize("kind", named_networks())
def test_names_stand_for_indices_where_the_network_knows_them(kind):
    explain, x = named_networks()[kind]
    for name, index in {"tiger cat": 0, "Tiger Cat": 0, "crane": 2, "Crane": 1}.items():
        for form in (name, [name] * 5, (name,) * 5, np.array([name] * 5)):
            assert torch.equal(explain(x, form), explain(x, index))
    mixed = ["crane", "Crane", "tiger cat", "crane", "TIGER CAT"]
    assert torch.equal(explain(x, mixed), explain(x, [2, 1, 0, 2, 0]))
    with pytest.raises(UnknownNameError, match=r"no class 'tigre cat'; there are tiger cat and "):
        explain(x, "tigre cat")
    with pytest.raises(UnknownNameError, match=r"2 classes are named 'CRANE'; give an index: 1, 2"):
        explain(x, ["tiger cat", "CRANE", "crane", "crane", "crane"])
    with pytest.raises(TargetError, match=r"shape \(2,\), of 5 images"):
        explain(x, ["crane", "crane"])
    with pytest.raises(TargetError, match="give the index"):
        explain(x, [True] * 5)


def test_scores_take_names():
    pair = tiny_pair()
    pair.classes = NAMES[:3]
    explainer = SplitCAM(pair, "stem")
    named, numbered = (
        score("Sparseness", pair, explainer, IMAGES, y)["Sparseness"].values.tolist()
        for y in (["crane", "Crane", "crane", "tiger cat", "tiger cat"], [2, 1, 2, 0, 0])
    )
    np.testing.assert_array_equal(named, numbered)
    assert not np.isnan(named).all()


@pytest.mark.parametrize("classes", [None, 3, "abc", [0, 1], {"a": 0}, torch.arange(3)])
def test_what_are_no_names_is_not_taken_for_them(classes):
    network = torch.nn.Flatten()
    network.classes = classes
    assert class_names(network) == ()


@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique_by=str.lower),
    st.data(),
)
def test_each_name_is_of_its_own_class(names, data):
    index = data.draw(st.integers(0, len(names) - 1))
    assert find_class(names[index], names) == index
    unknown = "".join(names) + "?"
    with pytest.raises(UnknownNameError, match=f"0 to {len(names) - 1}"):
        find_class(unknown, names)


@pytest.mark.parametrize(
    ("classes", "there"),
    [
        (["ship"], "there is ship, by name"),
        (["0", "1", "2"], "there are 0, 1, 2, by name"),
        (["0", "1", "2", "3"], "there are 0, 1, 2 and others, by name"),
        (["tiger cat", "dog"], "there are tiger cat and others, by name"),
    ],
)
def test_others_are_told_of_where_there_are_some(classes, there):
    with pytest.raises(UnknownNameError, match=f"no class 'tiger'; {there}"):
        find_class("tiger", classes)
