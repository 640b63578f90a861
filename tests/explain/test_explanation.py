"""An explanation comes back exactly as it was saved, or is refused."""

import tempfile
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmn.errors import BundleError, DataError
from dmn.explain import Explanation
from dmn.explain.explanation import FACTS, FORMAT, TENSORS
from dmn.io.bundles import from_json, pack_tensors, read_bundle, to_json, write_bundle

TENSOR_FIELDS = ("x", "image", "logits")


def make(seed=0, dtype=torch.float32, streams=("g", "h", "g-h"), **changes):
    """Make an explanation of drawn numbers."""
    torch.manual_seed(seed)
    values = {
        "x": torch.randn(3, 4, 5, dtype=dtype),
        "image": torch.rand(3, 4, 5, dtype=dtype),
        "logits": torch.randn(4, dtype=dtype),
        "target": 2,
        "rival": 0,
        "maps": {stream: torch.randn(1, 4, 5) for stream in streams},
        "method": "SplitLRP",
        "settings": {"layer": "input", "alpha": {"conv": 0.1}, "pool": None, "absolute": False},
        "network": "tiny",
        "network_sha256": "0" * 64,
        "classes": ("Γάτα", "犬", "chat\nnoir", "\ud800"),
        "versions": {"dmn": "1", "torch": "2"},
        "picture": "a.png",
        "picture_sha256": "1" * 64,
    }
    return Explanation(**{**values, **changes})


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().view(torch.uint8).tolist()


def content(explanation):
    """Return all that is in an explanation, numbers as bits."""
    values = {field.name: getattr(explanation, field.name) for field in fields(explanation)}
    values |= {name: bits(values[name]) for name in TENSOR_FIELDS}
    values["maps"] = {stream: bits(values) for stream, values in explanation.maps.items()}
    return values


@pytest.mark.parametrize("name", ["a.zip", "folder"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_comes_back_exactly(name, dtype, tmp_path):
    made = make(dtype=dtype)
    assert made.save(tmp_path / name) == tmp_path / name
    assert content(Explanation.load(tmp_path / name)) == content(made)
    bare = make(1, dtype, ("g-h",), rival=None, picture=None, picture_sha256=None, classes=())
    bare.save(tmp_path / name)
    assert content(Explanation.load(tmp_path / name)) == content(bare)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=20, max_size=20), st.integers(0, 3))
def test_any_numbers_come_back_exactly(numbers, target):
    values = torch.tensor(numbers).view(1, 4, 5)
    made = make(target=target, rival=None, maps={"g-h": values})
    with tempfile.TemporaryDirectory() as folder:
        loaded = Explanation.load(made.save(f"{folder}/a.zip"))
    assert content(loaded) == content(made)


def test_the_same_explanation_is_the_same_file(tmp_path):
    one, other = (make().save(tmp_path / f"{name}.zip").read_bytes() for name in "ab")
    assert one == other


def test_settings_are_as_json_has_them():
    assert make(settings={"alpha": (0.1, 0.2)}).settings == {"alpha": [0.1, 0.2]}
    for wrong in ({"alpha": torch.zeros(1)}, {"alpha": float("nan")}):
        with pytest.raises(DataError, match="settings are no JSON"):
            make(settings=wrong)


def test_evidence_is_what_is_positive_and_what_is_negative():
    made = make()
    for stream, values in made.maps.items():
        speaks, against = made.evidence(stream)
        assert (speaks >= 0).all()
        assert (against >= 0).all()
        assert torch.equal(speaks - against, values)
        assert not (speaks * against).any()


def test_names_and_probabilities():
    made = make()
    assert made.label(1) == "犬"
    assert replace(made, classes=()).label(1) == "1"
    assert torch.equal(made.probabilities, made.logits.softmax(0))
    one = make(logits=torch.tensor([0.3]), target=0, rival=None, classes=("ship",))
    assert one.probabilities.item() == pytest.approx(1 / (1 + 2.718281828459045**-0.3))


UNFIT = {
    "integers": ({"x": torch.zeros(3, 4, 5, dtype=torch.long)}, "x: no floating point numbers"),
    "a batch": ({"x": torch.rand(1, 3, 4, 5)}, r"x has the shape \(1, 3, 4, 5\)"),
    "another image": ({"image": torch.rand(3, 4, 4)}, r"image has the shape \(3, 4, 4\)"),
    "a matrix of logits": ({"logits": torch.rand(1, 4)}, r"there are no logits \(K,\)"),
    "no maps": ({"maps": {}}, "maps are of nothing"),
    "another stream": ({"maps": {"f": torch.rand(1, 4, 5)}}, "maps are of f, and not of some"),
    "a small map": ({"maps": {"g": torch.rand(1, 4, 4)}}, "the map of g has not the size of x"),
    "too few names": ({"classes": ("a", "b")}, "2 names for 4 classes"),
    "no such class": ({"target": 4}, r"no class \[4, 0\] of 4"),
    "no such rival": ({"rival": -1}, r"no class \[2, -1\] of 4"),
    "itself as a rival": ({"rival": 2}, "the class is its own rival"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_refused_when_made_and_when_loaded(what, tmp_path):
    changes, told = UNFIT[what]
    with pytest.raises(DataError, match=f"this is no explanation: {told}"):
        make(**changes)
    made = make()
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    told = "holds other tensors" if what == "another stream" else "this is no explanation: "
    with pytest.raises(BundleError, match=rf"a\.zip: .*{TENSORS}: {told}") as caught:
        Explanation.load(made.save(tmp_path / "a.zip"))
    assert "\n" not in str(caught.value)


FACT_CHANGES = {
    "a fact is missing": (lambda facts: facts.pop("method"), "must say target, rival"),
    "another fact": (lambda facts: facts.update(code="import os"), "and nothing else"),
    "a text for a class": (lambda facts: facts.update(target="2"), "'target' is a str"),
    "a truth value for a class": (lambda facts: facts.update(target=True), "'target' is a bool"),
    "a number for a name": (lambda facts: facts.update(network=3), "'network' is a int"),
    "numbers as names": (lambda facts: facts.update(classes=[1, 2, 3, 4]), "must be texts"),
}


@pytest.mark.parametrize("what", FACT_CHANGES)
def test_wrong_facts_are_refused_though_their_hash_is_right(what, tmp_path):
    """Who writes a bundle can hash what they like."""
    edit, told = FACT_CHANGES[what]
    path = make().save(tmp_path / "a.zip")
    members = read_bundle(path, (FACTS, TENSORS), FORMAT)
    facts = from_json(members[FACTS])
    edit(facts)
    write_bundle(path, {**members, FACTS: to_json(facts)}, FORMAT)
    with pytest.raises(BundleError, match=rf"a\.zip: explanation\.json: .*{told}"):
        Explanation.load(path)


def test_wrong_tensors_are_refused_though_their_hash_is_right(tmp_path):
    path = make().save(tmp_path / "a.zip")
    members = read_bundle(path, (FACTS, TENSORS), FORMAT)
    wrong = {
        "has no image": {"x": torch.zeros(1), "logits": torch.zeros(1)},
        "holds other tensors, such as 'code'": {
            **{name: torch.zeros(1) for name in (*TENSOR_FIELDS, "code")}
        },
    }
    contents = {told: pack_tensors(tensors) for told, tensors in wrong.items()}
    for told, content in {**contents, "": b"no tensors"}.items():
        write_bundle(path, {**members, TENSORS: content}, FORMAT)
        with pytest.raises(BundleError, match=rf"a\.zip: tensors\.safetensors: {told}"):
            Explanation.load(path)
