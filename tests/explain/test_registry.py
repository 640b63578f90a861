"""One registry names every method, wherever it is asked for."""

import re
from pathlib import Path

import pytest
import torch

import dmn.baselines
from dmn.errors import OptionError, UnknownNameError
from dmn.explain import METHODS, Explainer, controls, find_method, list_methods, registry
from dmn.explain.registry import KINDS, register

ROOT = Path(dmn.baselines.__file__).parents[2]


@pytest.fixture
def empty(monkeypatch):
    """Let a test register methods that are gone after it."""
    registered = {}
    monkeypatch.setattr(registry, "_registered", registered)
    monkeypatch.setattr(registry, "METHODS", registered)


def test_names_are_found_in_any_case_and_spelt_in_one():
    for spec in METHODS.values():
        for name in (spec.name, spec.name.lower(), spec.name.upper()):
            assert find_method(name) is spec
            assert find_method(name, spec.kind) is spec


def test_methods_are_listed_by_kind_split_ones_first_and_controls_last():
    assert [spec.name for spec in list_methods("split")] == ["SplitCAM", "SplitGrad", "SplitLRP"]
    assert [spec.name for spec in list_methods("control")] == list(controls())
    kinds = [spec.kind for spec in list_methods()]
    assert kinds == sorted(kinds, key=KINDS.index)
    assert set(kinds) == set(KINDS)


def test_a_post_hoc_method_is_exported_and_says_whether_it_needs_a_layer():
    exported = {getattr(dmn.baselines, name) for name in dmn.baselines.__all__}
    assert {spec.factory for spec in list_methods("post-hoc")} == exported - {
        dmn.baselines.Baseline
    }
    for spec in list_methods("post-hoc"):
        assert spec.needs_layer == ("layer" in spec.options)


def test_defaults_are_options_of_the_method():
    for spec in list_methods():
        assert spec.defaults.keys() <= set(spec.options)


def test_the_documents_list_every_method_by_its_name():
    text = (ROOT / "docs" / "how_to" / "compare.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:captum|torchcam|zennit|dmn) \| (.+) \|$", text, re.M)
    listed = [name for row in rows for name in row.split(", ")]
    assert sorted(listed) == sorted(spec.name for spec in list_methods("post-hoc"))
    for spec in list_methods("split", "control"):
        assert spec.name in text


def test_the_documents_show_how_to_register_a_method(empty):
    text = (ROOT / "docs" / "how_to" / "compare.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from dmn.explain import register.*?)```", text, re.S)
    exec(code, {})
    spec = find_method("magnitude", "post-hoc")
    assert spec.factory(torch.nn.Identity())(torch.ones(2, 3, 4, 4)).shape == (2, 1, 4, 4)


def test_an_unknown_name_lists_the_methods_that_will_do():
    with pytest.raises(UnknownNameError, match=r"^no method 'cam'; there are SplitCAM.*GradCAM"):
        find_method("cam")
    with pytest.raises(UnknownNameError, match=r"there are SplitCAM, SplitGrad, SplitLRP$"):
        find_method("GradCAM", "split")


def test_where_no_method_is_registered_the_message_says_what_to_import(empty):
    with pytest.raises(UnknownNameError, match=r"there are none; import dmn.baselines for"):
        find_method("GradCAM", "post-hoc")


def test_a_method_of_ones_own_is_one_decorator(empty):
    @register("control", "Grey", defaults={"value": 0.5})
    class GreyMap:
        def __init__(self, value=0.0):
            self.value = value

        def __call__(self, x, target=None):
            return torch.full((len(x), 1, *x.shape[-2:]), self.value)

    spec = find_method("grey")
    assert (spec.name, spec.kind, spec.factory, spec.options) == (
        "Grey",
        "control",
        GreyMap,
        ("value",),
    )
    assert isinstance(controls()["Grey"], Explainer)


def test_a_name_is_given_once_but_a_module_may_be_loaded_again(empty):
    def first():
        raise AssertionError("not made")

    register("control", "Name")(first)
    register("control", "Name")(first)
    with pytest.raises(OptionError, match="there is a method Name already"):
        register("split", "NAME")(lambda pair: pair)
    assert find_method("name").factory is first
