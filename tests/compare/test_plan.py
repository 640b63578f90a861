"""Entries: what a configuration's methods mean, and what is refused."""

import pytest
import torch
from small_pairs import fronted_pair, tiny_pair

from dmn.compare import Subject, entries
from dmn.compare.plan import grid
from dmn.errors import OptionError, UnknownNameError
from dmn.explain import SplitCAM, list_methods
from dmn.hub.networks import Network
from dmn.models import PlainCNN
from dmn.split import unfold_front

CONTROLS = [spec.name for spec in list_methods("control")]


def subject(label, model):
    names = tuple("0123")
    network = Network(label, model.eval(), names, None, None, None, torch.as_tensor, {})
    return Subject(label, network, torch.rand(1, 1, 8, 8, dtype=next(model.parameters()).dtype))


@pytest.fixture
def subjects():
    return {
        "own": subject("own", tiny_pair()),
        "cnn": subject("cnn", PlainCNN(1, (4, 4), grid=2, num_classes=4)),
    }


def test_lists_are_chosen_from_and_the_rest_is_fixed():
    assert grid({"a": [1, 2], "b": "x", "c": [False, True]}) == [
        {"a": 1, "b": "x", "c": False},
        {"a": 1, "b": "x", "c": True},
        {"a": 2, "b": "x", "c": False},
        {"a": 2, "b": "x", "c": True},
    ]
    assert grid({}) == [{}]


def test_kinds_names_and_controls(subjects):
    wanted = {
        "own": {"SplitCAM": {"layer": "stem"}, "Gradient": None},
        "cnn": {"SplitCAM": {"layer": "stage1"}, "plain": {"method": "Gradient"}},
    }
    made = {entry.name: entry for entry in entries(wanted, subjects, 4)}
    kinds = {name: entry.kind for name, entry in made.items()}
    assert kinds == {
        "SplitCAM (own)": "self",
        "Gradient (own)": "post-hoc",
        "SplitCAM (cnn)": "post-hoc",
        "plain (cnn)": "post-hoc",
        **{f"{name} ({label})": "control" for label in ("own", "cnn") for name in CONTROLS},
    }
    assert made["plain (cnn)"].method == "Gradient"
    assert made["plain (cnn)"].settings == ({},)
    assert list(made)[-1].endswith("(cnn)")  # controls are last
    for entry in made.values():
        one = subjects[entry.network]
        x = torch.rand(2, 1, 8, 8, dtype=next(one.network.model.parameters()).dtype)
        assert entry.explainer(one, entry.settings[0])(x, 1).shape == (2, 1, 8, 8)


def test_split_methods_explain_what_an_ordinary_network_is_split_into(subjects):
    own, cnn = subjects["own"], subjects["cnn"]
    assert own.pair is own.network.model
    assert cnn.pair is cnn.pair
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert cnn.pair(x).equal(cnn.network.model(x))
    (entry, *_) = entries({"cnn": {"SplitCAM": {"layer": "stage1"}}}, subjects, 1)
    assert entry.explainer(cnn, {"layer": "stage1"})(x, 0).equal(SplitCAM(cnn.pair, "stage1")(x, 0))


def test_a_network_with_a_front_explains_itself_at_its_pixels():
    one = subject("front", fronted_pair())
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    (entry, *_) = entries({"front": {"SplitCAM": {"layer": "input"}}}, {"front": one}, 1)
    assert entry.kind == "self"
    whole = unfold_front(one.network.model)
    assert entry.explainer(one, {"layer": "input"})(x, 0).equal(SplitCAM(whole, "input")(x, 0))


def test_unknown_methods_are_refused_by_name(subjects):
    with pytest.raises(UnknownNameError, match=r"CAM \(own\): no method 'CAM'.*GradCAM.*Random"):
        entries({"own": {"CAM": {}}}, subjects, 4)
    with pytest.raises(UnknownNameError, match=r"mine \(own\): no method 3;.*GradCAM"):
        entries({"own": {"mine": {"method": 3}}}, subjects, 4)


def test_methods_are_found_in_any_case_and_have_one_name_in_the_tables(subjects):
    (entry, *_) = entries({"cnn": {"gradcam": {"layer": "stage1"}}}, subjects, 1)
    assert (entry.title, entry.method) == ("gradcam", "GradCAM")


def test_every_method_has_the_same_number_of_tries(subjects):
    wanted = {"cnn": {"GradCAM": {"layer": ["stage1", "stage2"], "contrast": [False, True]}}}
    assert len(entries(wanted, subjects, 4)[0].settings) == 4
    with pytest.raises(OptionError, match=r"GradCAM \(cnn\): 4 settings.* has 3"):
        entries(wanted, subjects, 3)
