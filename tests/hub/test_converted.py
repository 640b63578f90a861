"""Converted networks are saved whole, and come back as they were."""

import json
from copy import deepcopy

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

from dmn.canonize import FoldingReport, canonize, folding_report, hookable
from dmn.canonize.report import set_report
from dmn.errors import CheckpointError, DmnError
from dmn.hub import load, save_converted
from dmn.hub.converted import FORMAT
from dmn.split import SplitModel, split


def network():
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3)),
    ).eval()


def images(dtype=torch.float32):
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(5)).to(dtype)


FORMS = {
    "canonized": lambda model: (canonize(model), False),
    "split": lambda model: (split(model, pool="convex", theta=0.5, threshold=2.0), False),
    "both": lambda model: (split(canonize(model), pool="winner", theta=1.0), True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_what_is_saved_comes_back(tmp_path, form, dtype):
    model, x = network().to(dtype), images(dtype)
    ours, was_canonized = FORMS[form](model)
    if form != "canonized" and dtype.itemsize >= 4:
        ours.certificate(x)
    path = tmp_path / "new" / "net.safetensors"
    assert save_converted(ours, path, classes="abc", canonized=was_canonized) == path
    loaded = load(path, model=network())
    assert loaded.classes == ("a", "b", "c")
    assert (loaded.name, loaded.source) == ("net", "converted")
    assert loaded.card["converted"]["architecture"] is None
    assert torch.equal(loaded.model(x), ours(x))
    assert {value.dtype for value in loaded.model.parameters()} == {dtype}
    assert not loaded.model.training
    assert isinstance(loaded.model, SplitModel) == (form != "canonized")
    if form != "canonized":
        assert loaded.model.options == ours.options
        assert loaded.model.certified == ours.certified
        if ours.certified:
            assert loaded.model.name == ours.name
        if dtype.itemsize >= 4:
            assert torch.equal(loaded.model.explain(x), ours.explain(x))


def test_a_network_of_torchvision_is_built_by_its_name(tmp_path):
    original = load("resnet18", num_classes=4)
    x = torch.randn(2, 3, 64, 64)
    ours = split(original.model, x)
    classes = ["cat", "dog", "ibex", "owl"]
    path = save_converted(ours, tmp_path / "a.safetensors", original=original, classes=classes)
    loaded = load(path)
    assert loaded.card["converted"]["architecture"] == "resnet18"
    assert loaded.classes == tuple(classes)
    assert torch.equal(loaded.model(x), original.model(x))


def test_a_network_that_transforms_its_input_comes_back(tmp_path):
    """GoogLeNet with torchvision's weights does, and without does not; no weight tells."""
    torch.manual_seed(0)
    file = tmp_path / "googlenet-1378be20.pth"
    plain = models.googlenet(init_weights=False, aux_logits=False, num_classes=2)
    torch.save(plain.state_dict(), file)
    original = load("googlenet", file)
    model = original.model
    assert model.transform_input
    x = torch.randn(1, 3, 64, 64)
    path = tmp_path / "a.safetensors"
    save_converted(split(model, x), path, original=original, classes="ab")
    assert torch.equal(load(path).model(x), model(x))
    with pytest.raises(CheckpointError, match="the same weights, but other operations"):
        load(path, model=plain)


def test_other_memory_formats_are_saved(tmp_path):
    model = network().to(memory_format=torch.channels_last)
    path = save_converted(split(model), tmp_path / "a.safetensors")
    model.to(memory_format=torch.contiguous_format)  # as it is loaded; formats may round otherwise
    assert torch.equal(load(path, model=network()).model(images()), model(images()))


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.safetensors"
    ours = split(network())
    save_converted(ours, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="no space left"):
        save_converted(split(network()), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path):
    safetensors.torch.save_file(network().state_dict(), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "cannot read"),
        (lambda path: path.write_bytes(b""), "cannot read"),
        (lambda path: path.write_text("not weights" * 99), "cannot read"),
        (lambda path: path.unlink(), "cannot read"),
        (foreign, "holds no converted network"),
    ],
)
def test_what_is_no_converted_network_is_refused(tmp_path, spoil, message):
    path = save_converted(split(network()), tmp_path / "a.safetensors")
    spoil(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path, model=network())
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, DmnError)


def test_another_architecture_is_refused_with_the_keys(tmp_path):
    path = save_converted(split(network()), tmp_path / "a.safetensors")
    other = network()
    other[7] = nn.Linear(16, 5)
    with pytest.raises(
        CheckpointError,
        match=r"2 misshapen: 7\.weight \(3, 16\) for \(5, 16\), 7\.bias .*; is it of the same",
    ):
        load(path, model=other)
    with pytest.raises(CheckpointError, match=f"{path}.* does not fit AlexNet: "):
        load(path, model=models.alexnet(num_classes=3))
    with pytest.raises(CheckpointError, match="names no architecture"):
        load(path)


# -- a split network is a module like any other ----------------------------------------------------


def test_moving_to_another_type():
    model, x = network(), images()
    ours = split(model, x).double()
    assert torch.equal(ours(x.double()), deepcopy(model).double()(x.double()))
    maps = ours.explain(x.double())
    assert maps.shape == (3, 1, 8, 8)
    assert torch.isfinite(maps).all()


def test_a_deep_copy_stands_alone():
    model, x = network(), images()
    ours = split(model, x)
    copy = deepcopy(ours)
    expected = ours.explain(x, layer="2")
    with torch.no_grad():
        for parameter in ours.network.parameters():
            parameter.zero_()
    assert torch.equal(copy(x), model(x))
    assert torch.equal(copy.explain(x, layer="2"), expected)
    assert copy.layers == ours.layers


def test_compiling_the_forward_changes_nothing():
    model, x = network(), images()
    ours = split(model, x)
    compiled = torch.compile(ours, backend="eager")
    assert torch.equal(compiled(x), model(x))
    torch.compiler.reset()


@pytest.mark.parametrize("method", ["SplitCAM", "SplitGrad", "SplitLRP"])
@pytest.mark.parametrize("pool", ["winner", "convex"])
def test_a_map_does_not_depend_on_the_rest_of_the_batch(method, pool):
    model, x = network().double(), images(torch.float64)
    ours = split(model, x, pool=pool, theta=0.5)
    target = torch.tensor([2, 0, 1])
    together = ours.explain(x, target, method)
    for index in range(3):
        alone = ours.explain(x[index : index + 1], target[index : index + 1], method)
        scale = float(alone.abs().max())
        assert torch.allclose(together[index : index + 1], alone, atol=1e-6 * scale)


@pytest.mark.parametrize("about", ["{", "[]", "{}", None])
def test_a_file_with_damaged_metadata_is_named(tmp_path, about):
    path = tmp_path / "damaged.safetensors"
    metadata = {"format": FORMAT, **({} if about is None else {"about": about})}
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=r"damaged.safetensors is damaged: its metadata"):
        load(path)


def test_no_file_is_written_that_could_not_be_read(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.pth: give a name that ends with \.safetens"):
        save_converted(split(network()), tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


# -- networks whose norms and layer scales are folded with an example ------------------------------


def small_convnext():
    blocks = [models.convnext.CNBlockConfig(4, 8, 1), models.convnext.CNBlockConfig(8, None, 1)]
    return models.ConvNeXt(blocks, num_classes=3)


def small_vit():
    return models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3)


def trained(build):
    """Draw every weight anew, as training would, so that none is 0 or 1 any more."""
    model, random = build().eval(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=random))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", [small_convnext, small_vit])
def test_folded_norms_come_back(tmp_path, build, dtype):
    size = 32 if build is small_convnext else 16
    model = trained(build).to(dtype)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(4)).to(dtype)
    ours = canonize(model, x)
    path = save_converted(ours, tmp_path / "a.safetensors", classes="abc")
    loaded = load(path, model=build().to(dtype))
    assert torch.equal(loaded.model(x), ours(x))
    assert loaded.card["converted"]["example"] == [3, size, size]
    report = folding_report(loaded.model)
    assert report[:3] == folding_report(ours)[:3]
    assert sum("norm" in name.lower() for name in report.folded) >= 4


def test_without_an_example_less_is_folded_and_comes_back_too(tmp_path):
    model, x = trained(small_convnext), torch.randn(2, 3, 32, 32)
    ours = canonize(model)
    path = save_converted(ours, tmp_path / "a.safetensors", classes="abc")
    loaded = load(path, model=small_convnext())
    assert torch.equal(loaded.model(x), ours(x))
    assert folding_report(loaded.model) == folding_report(ours)


def test_a_file_of_an_earlier_version_says_what_to_do(tmp_path):
    model = trained(small_convnext)
    path = save_converted(hookable_as_before(model), tmp_path / "a.safetensors", classes="abc")
    weights = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    del about["example"]
    safetensors.torch.save_file(weights, path, {"format": FORMAT, "about": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"earlier version of dmn.*convert the original"):
        load(path, model=small_convnext())


def hookable_as_before(model):
    """Return what `canonize` returned when it left norms as they were."""
    network = hookable(model)
    set_report(network, FoldingReport((), (), ()))
    return network
