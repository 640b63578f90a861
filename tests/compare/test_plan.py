"""Entries: what a configuration's methods mean, and what is refused."""

import pytest
import torch
import yaml
from small_pairs import fronted_pair, tiny_pair

from dmn.compare import entries
from dmn.compare.plan import grid
from dmn.errors import OptionError, UnknownNameError
from dmn.explain import SplitCAM, list_methods
from dmn.hub import Network
from dmn.models import PlainCNN
from dmn.split import unfold_front

FORMS = ("mean", "clrp", "sglrp")
CONTROLS = [spec.name for spec in list_methods("control")]


def make(label, model):
    names = tuple("0123")
    return Network(label, model.eval(), names, None, None, None, torch.as_tensor, {})


@pytest.fixture
def networks():
    return {
        "own": make("own", tiny_pair()),
        "cnn": make("cnn", PlainCNN(1, (4, 4), grid=2, num_classes=4)),
    }


def test_lists_are_chosen_from_and_the_rest_is_fixed():
    assert grid({"a": [1, 2], "b": "x", "c": [False, True]}) == [
        {"a": 1, "b": "x", "c": False},
        {"a": 1, "b": "x", "c": True},
        {"a": 2, "b": "x", "c": False},
        {"a": 2, "b": "x", "c": True},
    ]
    assert grid({}) == [{}]


def test_kinds_names_and_controls(networks):
    wanted = {
        "own": {"SplitCAM": {"layer": "stem"}, "Gradient": None},
        "cnn": {"SplitCAM": {"layer": "stage1"}, "plain": {"method": "Gradient"}},
    }
    made = {entry.name: entry for entry in entries(wanted, networks, 4)}
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
        one = networks[entry.network]
        x = torch.rand(2, 1, 8, 8, dtype=next(one.model.parameters()).dtype)
        assert entry.explainer(one, entry.settings[0], x[:1])(x, 1).shape == (2, 1, 8, 8)


def test_split_methods_explain_what_an_ordinary_network_is_split_into(networks):
    own, cnn = networks["own"], networks["cnn"]
    x = torch.rand(2, 1, 8, 8)
    pair = cnn.as_pair(x[:1])
    assert own.as_pair() is own.model
    assert cnn.as_pair(x[1:]) is pair
    with torch.no_grad():
        assert pair(x).equal(cnn.model(x))
    (entry, *_) = entries({"cnn": {"SplitCAM": {"layer": "stage1"}}}, networks, 1)
    assert entry.explainer(cnn, {"layer": "stage1"})(x, 0).equal(SplitCAM(pair, "stage1")(x, 0))


def test_a_network_with_a_front_explains_itself_at_its_pixels():
    one = make("front", fronted_pair())
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    (entry, *_) = entries({"front": {"SplitCAM": {"layer": "input"}}}, {"front": one}, 1)
    assert entry.kind == "self"
    whole = unfold_front(one.model)
    assert entry.explainer(one, {"layer": "input"})(x, 0).equal(SplitCAM(whole, "input")(x, 0))


def test_unknown_methods_are_refused_by_name(networks):
    with pytest.raises(UnknownNameError, match=r"CAM \(own\): no method 'CAM'.*GradCAM.*Random"):
        entries({"own": {"CAM": {}}}, networks, 4)
    with pytest.raises(UnknownNameError, match=r"mine \(own\): no method 3;.*GradCAM"):
        entries({"own": {"mine": {"method": 3}}}, networks, 4)


def test_methods_are_found_in_any_case_and_have_one_name_in_the_tables(networks):
    (entry, *_) = entries({"cnn": {"gradcam": {"layer": "stage1"}}}, networks, 1)
    assert (entry.title, entry.method) == ("gradcam", "GradCAM")


def test_every_method_has_the_same_number_of_tries(networks):
    wanted = {"cnn": {"GradCAM": {"layer": ["stage1", "stage2"], "contrast": [False, True]}}}
    assert len(entries(wanted, networks, 4)[0].settings) == 4
    with pytest.raises(OptionError, match=r"GradCAM \(cnn\): 4 settings.* has 3"):
        entries(wanted, networks, 3)


def test_starts_of_relevance_and_pairs_of_gamma_are_searched(networks):
    """Of a list of lists each inner list is one value."""
    text = """
        SplitLRP: {contrast: [false, true, mean, clrp, sglrp]}
        LRPGamma: {gamma: [0.25, [0.5, 0.0], [1.0, 0.1]], contrast: [mean, clrp]}
    """
    split, gamma = entries({"cnn": yaml.safe_load(text)}, networks, 6)[:2]
    assert [setting["contrast"] for setting in split.settings] == [False, True, *FORMS]
    assert [setting["gamma"] for setting in gamma.settings[::2]] == [0.25, [0.5, 0.0], [1.0, 0.1]]
    x = torch.rand(2, 1, 8, 8)
    for entry in (split, gamma):
        explainers = [entry.explainer(networks["cnn"], setting, x) for setting in entry.settings]
        maps = [explainer(x, 1) for explainer in explainers]
        assert len({tuple(one.flatten().tolist()) for one in maps}) == len(maps)
