"""An ONNX file computes what torch does, says what it is, and is whole or not there."""

import json
import sys

import pytest
import torch
from effort import slow_except
from torch import nn

import dmn
from dmn.errors import (
    MissingPackageError,
    NotEqualError,
    OptionError,
    UnknownNameError,
    UnsupportedError,
)
from dmn.explain import SplitLRP
from dmn.hub import Network
from dmn.hub.explaining import weights_sha256
from dmn.onnx import Parity, check_parity, explanation, export
from dmn.onnx.parity import open_session

onnx_export = sys.modules["dmn.onnx.export"]
MEAN, STD = (0.4, 0.5), (0.2, 0.3)


def small(**options):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()
    about = {"size": (2, 8, 8), "mean": MEAN, "std": STD, "transform": None, "card": {}}
    return Network("small", net, ("a", "b", "ç"), **{**about, **options})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One file for several tests: all streams, of given classes, in pixels."""
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    network = small()
    parity = dmn.export(network, path, streams=("g", "h", "g-h"), target=True, pixels=True)
    return network, path.read_bytes(), parity


def test_maps_in_onnxruntime_are_those_of_torch(exported):
    network, content, parity = exported
    assert parity.holds
    assert list(parity.differences) == [1, 5]
    assert len(parity.classes) == 3
    session = open_session(content)
    pair = network.as_pair()
    for count in (1, 4, 7):
        image, target = torch.rand(count, 2, 8, 8), torch.arange(count) % 3
        found = session.run(None, {"image": image.numpy(), "target": target.numpy()})
        mean, std = (torch.tensor(each).view(2, 1, 1) for each in (MEAN, STD))
        x = (image - mean) / std
        for ours, theirs in zip(found, [pair(x), *SplitLRP(pair).streams(x, target)], strict=True):
            difference = (torch.from_numpy(ours) - theirs).abs().max()
            assert difference <= 1e-4 * theirs.abs().max()


def test_the_file_says_what_it_is(exported):
    network, content, _ = exported
    session = open_session(content)
    assert [each.name for each in session.get_inputs()] == ["image", "target"]
    assert [each.name for each in session.get_outputs()] == ["logits", "map_g", "map_h", "map_g-h"]
    assert session.get_inputs()[0].shape[1:] == [2, 8, 8]
    about = session.get_modelmeta().custom_metadata_map
    about = {name: json.loads(value) for name, value in about.items()}
    assert about["classes"] == ["a", "b", "ç"]
    assert (about["size"], about["mean"], about["std"]) == ([2, 8, 8], [*MEAN], [*STD])
    assert about["method"] == "SplitLRP"
    assert about["options"] == {"layer": "input"}
    assert (about["input"], about["target"]) == ("pixels", "input")
    assert about["versions"] == {"dmn": dmn.__version__, "torch": torch.__version__, "opset": 18}
    assert about["weights"] == weights_sha256(network)


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    wrong = Parity({1: {"logits": 1e-7, "map": 2e-3}}, (0,))
    monkeypatch.setattr(onnx_export, "check_parity", lambda *args: wrong)
    monkeypatch.setattr(onnx_export, "to_onnx", lambda *args: b"graph")
    with pytest.raises(NotEqualError, match=r"is not written:\n.*largest difference"):
        export(small(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_parity_is_lost_by_what_is_no_number():
    assert Parity({1: {"logits": 1e-4, "map": 1e-3}}, (0,)).holds
    assert not Parity({1: {"logits": 2e-4, "map": 0.0}}, (0,)).holds
    assert not Parity({1: {"logits": 0.0, "map": float("nan")}}, (0,)).holds


def test_only_what_noise_changes_in_torch_is_excused(exported):
    network, content, _ = exported
    reference = explanation(SplitLRP(network.as_pair()), ("g", "h", "g-h"))  # normalises nothing
    x = torch.rand(2, 2, 8, 8).mul(8).round() / 8
    parity = check_parity(content, reference, x, (1, 2))
    assert not parity.holds
    assert list(parity.noise) == [1, 2]
    assert all(0 < each < 1e-4 for row in parity.noise.values() for each in row.values())
    parity = check_parity(content, lambda *given: shaken(reference, *given), x, (1, 2))
    assert parity.holds
    assert "torch, with noise of 1e-06 against without:\n  images  logits" in str(parity)


def shaken(reference, x, target=None):
    """Return maps that are far away where no pixel is a multiple of 1/8."""
    factor = 1 if torch.equal(x, (x * 8).round() / 8) else 100
    return [factor * each for each in reference(x, target)]


@pytest.mark.parametrize("package", ["onnxscript", "onnx_ir.passes.common"])
def test_without_the_extra_it_says_how_to_install_it(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dmn\[onnx\]'"):
        export(small(), tmp_path / "a.onnx")


def test_without_onnxruntime_nothing_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    monkeypatch.setattr(onnx_export, "to_onnx", lambda *args: b"graph")
    assert export(small(), tmp_path / "a.onnx") is None
    assert (tmp_path / "a.onnx").read_bytes() == b"graph"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dmn\[onnx\]'"):
        open_session(b"graph")


def test_what_cannot_be_exported_is_refused(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(UnknownNameError, match="no method 'gradcam'; there are SplitCAM, SplitGr"):
        export(small(), path, "gradcam")
    with pytest.raises(OptionError, match="no stream 'f'; there are g, h, g-h"):
        export(small(), path, streams=("g", "f"))
    with pytest.raises(OptionError, match="size of small's images is not known"):
        export(small(size=None), path)
    network = small()
    network.model.double()
    with pytest.raises(UnsupportedError, match=r"torch.float64 cannot be exported"):
        export(network, path)
    with pytest.raises(OptionError, match=r"ends with \.onnx"):
        export(small(), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def library_network(name):
    """Return a network with random weights and statistics, that predicts several classes."""
    network = dmn.load(name, size=(3, 64, 96))
    x = torch.rand(5, *network.size)
    modules = list(network.model.modules())
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1  # the statistics are those of the images, or all logits become equal
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.2)
        network.model.train()(x)
        for norm in norms:
            norm.running_mean *= torch.empty_like(norm.running_mean).uniform_(0.8, 1.2)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
        layers = [module for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]
        layers[-1].bias -= network.model.eval()(x).mean(0)
    return network, x


SHIPPED = ["mnist_paired", "mnist_inverted", "mnist_front", "scenes_front"]
SHIPPED += ["scenes_resnet18", "scenes_vgg16"]
LIBRARY = ["vgg11_bn", "resnet18", "densenet121", "mobilenet_v2", "squeezenet1_1"]


@pytest.mark.parametrize("name", slow_except([], SHIPPED))
def test_shipped_networks_have_parity(name, tmp_path):
    parity = export(name, tmp_path / "a.onnx", target=True)
    assert parity.holds, parity
    assert len(parity.classes) > 1


@pytest.mark.parametrize("name", slow_except([], LIBRARY))
def test_library_networks_have_parity(name, tmp_path):
    torch.manual_seed(0)
    network, x = library_network(name)
    parity = export(network, tmp_path / "a.onnx", images=x)
    assert parity.holds, parity
    assert len(parity.classes) > 1
