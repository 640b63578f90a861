"""Networks of one's own, by the name of what makes them."""

import sys
from importlib import import_module
from itertools import count

import pytest
import safetensors.torch
import torch
from torch import nn

from dmn.errors import CheckpointError, DmnError, OptionError, UnknownNameError
from dmn.hub import load, save_converted, save_network
from dmn.split import split

CODE = '''
import torch
from torch import nn

class Net(nn.Sequential):
    """Two layers."""

    def __init__(self, num_classes=4):
        layers = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, num_classes))

def fixed():
    return Net(3)

def counted(**options):
    return Net(**options)

def ready():
    net = Net()
    nn.init.constant_(net[0].weight, 0.25)
    return net

def fails():
    raise ValueError("no\\nluck")

def leaves():
    raise SystemExit(2)

def greedy(width):
    return Net(width)

def lazy():
    return nn.Sequential(nn.LazyConv2d(3, 3))

def nothing():
    return None

number, made = 3, Net()
'''
_numbers = count()


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Write a module in the working directory, under a name that no other test has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    package = tmp_path / f"own_package_{next(_numbers)}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(CODE)
    return f"{package.name}.nets"


def state_of(outputs=4):
    torch.manual_seed(3)
    layers = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, outputs))
    return net.state_dict()


@pytest.mark.parametrize(
    ("maker", "num_classes", "outputs"),
    [("Net", None, 4), ("Net", 6, 6), ("fixed", None, 3), ("counted", 2, 2), ("counted", None, 4)],
)
def test_functions_and_classes_make_networks(maker, num_classes, outputs, code):
    network = load(f"{code}:{maker}", num_classes=num_classes, size=(3, 9, 8))
    assert (network.name, network.source) == (f"{code}:{maker}", "own")
    assert network.classes == tuple(map(str, range(outputs)))
    assert not network.model.training
    assert not any(parameter.requires_grad for parameter in network.model.parameters())
    x = network.transform(torch.rand(3, 20, 30))
    assert x.shape == network.size == (3, 9, 8)
    assert network.model(x[None]).shape == (1, outputs)


def test_what_a_factory_has_loaded_is_kept(code):
    weight = load(f"{code}:ready").model[0].weight
    assert torch.equal(weight, torch.full_like(weight, 0.25))


def as_safetensors(state, path):
    safetensors.torch.save_file(state, path)


SAVED = {
    "bare.pt": torch.save,
    "plain.safetensors": as_safetensors,
    "lightning.ckpt": lambda state, path: torch.save(
        {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3}, path
    ),
    "parallel.pth.tar": lambda state, path: torch.save(
        {"model": {f"module.{key}": value for key, value in state.items()}}, path
    ),
}


@pytest.mark.parametrize("form", SAVED)
def test_its_weights_are_of_any_file(form, code, tmp_path):
    state = state_of()
    SAVED[form](state, tmp_path / form)
    network = load(f"{code}:Net", tmp_path / form)
    own = network.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    assert network.source == form


def test_pictures_are_taken_as_they_are_unless_said_otherwise(code):
    picture = torch.randint(0, 256, (3, 17, 13), dtype=torch.uint8)
    network = load(f"{code}:Net")
    assert (network.size, network.mean, network.std) == (None, None, None)
    assert torch.equal(network.transform(picture), picture / 255)
    mean, std = (0.5, 0.25, 0.125), (2, 4, 8)
    scaled = load(f"{code}:Net", mean=mean, std=std)
    expected = (picture / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(
        -1, 1, 1
    )
    assert torch.allclose(scaled.transform(picture), expected)
    assert torch.allclose(scaled.restore(scaled.transform(picture)[None])[0], picture / 255)


def test_classes_are_named_by_names_or_a_file(code, tmp_path):
    names = ("cat", "dog", "émeu")
    (tmp_path / "labels.txt").write_text("cat\ndog\n émeu \n\n", encoding="utf-8")
    for classes in (names, list(names), "labels.txt", ["labels.txt"], tmp_path / "labels.txt"):
        network = load(f"{code}:Net", classes=classes, size=(3, 8, 8))
        assert network.classes == names  # and so many outputs, as the class takes their number
        assert network.model[-1].out_features == 3
    assert [network.label(index) for index in range(3)] == list(names)


def test_without_size_and_number_classes_are_unnamed(code):
    network = load(f"{code}:Net")
    assert network.classes == ()
    assert network.label(7) == "7"
    assert load(f"{code}:Net", num_classes=2).classes == ("0", "1")


def test_a_module_beside_the_network_is_imported_when_it_is_needed(code, tmp_path):
    """As with `python -m`, the working directory stays on the path."""
    (tmp_path / f"{code.partition('.')[0]}_late.py").write_text("VALUE = 3\n")
    for _ in range(2):
        load(f"{code}:Net")
    assert import_module(f"{code.partition('.')[0]}_late").VALUE == 3
    assert sys.path.count(str(tmp_path)) == 1


FAULTS = {  # what follows the name of the module, and what is said
    ":none": (UnknownNameError, "has no 'none', but Net, fixed, counted, ready,"),
    ":Net.other": (UnknownNameError, "has no 'Net.other', but Net"),
    ":number": (OptionError, "is a int; give a function or a class"),
    ":made": (OptionError, "is a Net; give a function or a class"),
    ":nothing": (OptionError, "makes a NoneType; it must make a torch.nn.Module"),
    ":fails": (OptionError, r"fails: ValueError: no luck \(nets.py, line 24\)"),
    ":leaves": (OptionError, r"fails: SystemExit: 2 \(nets.py"),
    ":greedy": (OptionError, r"fails: TypeError: .*missing 1 required .* 'width'"),
    ":lazy": (OptionError, "makes lazy layers; call the network once"),
    ".more:Net": (UnknownNameError, r"is not imported: ModuleNotFoundError: No module named"),
    ".py:Net": (UnknownNameError, r"is not imported: .*; write own_package_\d+\.nets:Net"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("rest", FAULTS)
@pytest.mark.torture("dmn.load('nets{rest}')", "refused in one line")
def test_what_makes_no_network_is_refused_in_one_line(rest, code, happened):
    kind, told = FAULTS[rest]
    with pytest.raises(kind, match=told) as caught:
        load(f"{code}{rest}")
    assert str(caught.value).startswith(f"{code}{rest}")
    assert "\n" not in str(caught.value)
    happened(str(caught.value))


BROKEN = {
    "import nowhere_to_be_found": "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
    "def make(:": "SyntaxError: ",
    "1 / 0": r"ZeroDivisionError: division by zero \(broken_\d+\.py, line 1\)",
    "raise SystemExit('bye')": "SystemExit: bye",
}


@pytest.mark.parametrize("text", BROKEN)
def test_modules_that_cannot_be_imported_are_told(text, code, tmp_path):
    name = f"broken_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(UnknownNameError, match=f"^{name}:make: .*{BROKEN[text]}") as caught:
        load(f"{name}:make")
    assert "\n" not in str(caught.value)


OPTIONS = (
    ("Net", {"size": (3, 0, 8)}, "'size' must be channels, height and width"),
    ("Net", {"size": (8, 8)}, "'size' must be channels, height and width"),
    ("Net", {"mean": 0.5}, "'mean' must be a list of numbers"),
    ("Net", {"std": (1, 0, 1)}, "'std' must be a list of positive numbers"),
    ("Net", {"size": (3, 8, 8), "mean": (0.5, 0.5)}, "'mean' must be of 3 channels"),
    ("Net", {"size": (1, 8, 8)}, r"images \(1, 1, 8, 8\) do not fit Net: \S+ \(Conv2d\) takes"),
    ("Net", {"num_classes": 0}, "num_classes is 0; give at least 1"),
    ("fixed", {"num_classes": 3}, "num_classes is 3, but .*:fixed takes no such argument"),
    ("fixed", {"size": (3, 8, 8), "classes": ["a", "b"]}, "classes are 2, but it has 3 outputs"),
    ("Net", {"classes": "none.txt"}, r"classes: none\.txt cannot be read"),
    ("Net", {"classes": ["./."]}, r"classes: \./\. cannot be read"),
    ("Net", {"model": nn.Identity()}, "model is for files of save_converted only"),
)


@pytest.mark.parametrize(("maker", "options", "told"), OPTIONS)
def test_options_that_do_not_fit_are_refused(maker, options, told, code):
    with pytest.raises(OptionError, match=told) as caught:
        load(f"{code}:{maker}", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["size", "mean", "std", "classes"])
@pytest.mark.parametrize("name", ["mnist_paired", "scenes_resnet18"])
def test_other_networks_know_their_images(name, option):
    told = rf"{option} is for classifiers of torchvision, .* and networks of .* only; leave it out"
    with pytest.raises(OptionError, match=told):
        load(name, **{option: (3, 8, 8)})


def test_weights_that_do_not_fit_are_refused(code, tmp_path):
    torch.save(state_of(7), tmp_path / "seven.pt")
    told = (
        r"seven\.pt does not fit .*:Net: 2 misshapen: 5\.weight \(7, 5\) for \(4, 5\), .*num_class"
    )
    with pytest.raises(CheckpointError, match=told):
        load(f"{code}:Net", tmp_path / "seven.pt")
    assert load(f"{code}:Net", tmp_path / "seven.pt", num_classes=7).model[-1].out_features == 7
    with pytest.raises(CheckpointError, match=r"none\.pt: there is no such file"):
        load(f"{code}:Net", "none.pt")


def test_a_path_with_a_colon_is_no_name_of_code(code, tmp_path):
    for name in (f"./{code}:Net", tmp_path / f"{code}:Net"):
        with pytest.raises(UnknownNameError, match="no network"):
            load(name)
    assert code not in sys.modules


def test_a_converted_file_names_it_and_does_not_import_it(code, tmp_path, monkeypatch):
    options = {"size": (3, 16, 12), "mean": (0.5,), "std": (0.25,), "classes": list("abcd")}
    original = load(f"{code}:Net", **options)
    x = torch.rand(2, 3, 16, 12)
    path = save_converted(split(original.model, x), tmp_path / "a.safetensors", original=original)
    monkeypatch.delitem(sys.modules, code)
    with pytest.raises(CheckpointError, match=rf"a\.safetensors is of {code}:Net, and no .*model="):
        load(path)
    assert code not in sys.modules
    network = load(path, model=load(f"{code}:Net").model)
    assert torch.equal(network.model(x), original.model(x))
    assert network.card["converted"]["factory"] == f"{code}:Net"
    for known in ("classes", "size", "mean", "std"):
        assert getattr(network, known) == getattr(original, known), known


def test_it_gets_no_card(code, tmp_path):
    with pytest.raises(UnknownNameError, match="gets no card"):
        save_network(load(f"{code}:Net"), tmp_path)


@pytest.mark.torture("a converted file that tells of code, {text}", "refused, nothing imported")
@pytest.mark.parametrize("text", ["os:abort", "x" * 10**5, "a\nb:c"])
def test_names_inside_files_are_only_text(text, code, tmp_path, happened):
    original = load(f"{code}:Net")
    original.card["factory"] = text
    path = save_converted(split(original.model), tmp_path / "a.safetensors", original=original)
    with pytest.raises(DmnError, match=r"a\.safetensors is of ") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    happened(str(caught.value).replace(str(tmp_path), ""))
