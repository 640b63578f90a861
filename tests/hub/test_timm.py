"""Classifiers of timm, by name: weights of files and of the cache, transforms, names of classes."""

import re
import sys

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from dmn.baselines import GradCAM, Gradient, IntegratedGradients
from dmn.errors import (
    CheckpointError,
    DmnError,
    MissingPackageError,
    OptionError,
    UnknownNameError,
)
from dmn.hub import load, save_converted
from dmn.hub.timm import about_images
from dmn.split import split

VIT, CNN, DEFAULT = "timm:test_vit", "timm:test_resnet", "r160_in1k"
FAMILIES = ["test_convnext", "test_efficientnet", "test_nfnet", "test_resnet", "test_vit"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Give each test an empty cache of Hugging Face's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.file_download.constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 410, 3), np.uint8)
    return Image.fromarray(pixels)


def made(name, **options):
    torch.manual_seed(5)
    return timm.create_model(name.removeprefix("timm:"), **options).eval()


def save_safetensors(state, path):
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_name_is_a_random_network_with_timms_classes(name):
    torch.manual_seed(5)
    network = load(f"timm:{name}")
    assert (network.name, network.source, network.size) == (f"timm:{name}", "random", (3, 160, 160))
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(network.model(x), made(name)(x))
    assert (len(network.classes), network.classes[282]) == (1000, "tiger cat")
    assert network.index("tabby") == network.index("Tabby cat") == 281
    assert not any(module.training for module in network.model.modules())
    assert not any(parameter.requires_grad for parameter in network.model.parameters())


NAMES = ["resnet10t.c3_in1k", "vit_tiny_patch16_224.augreg_in21k", "vit_base_patch32_clip_384"]


@pytest.mark.parametrize("name", [*NAMES, "convnextv2_tiny.fcmae_ft_in22k_in1k_384"])
def test_pictures_are_prepared_as_timm_does(name, picture):
    """Whether they are cropped, or squeezed, as for the last ones."""
    about = about_images(name)
    cfg = timm.models.get_pretrained_cfg(name).to_dict()
    data = timm.data.resolve_data_config(pretrained_cfg=cfg)
    expected = timm.data.create_transform(**data)(picture)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    for given in (picture, pixels, pixels / 255):
        assert torch.equal(about["transform"](given), expected)
    assert about["size"] == expected.shape
    assert (about["mean"], about["std"]) == (cfg["mean"], cfg["std"])


def test_pictures_are_shown_again():
    network = load(VIT)
    picture = torch.full((3, 200, 200), 51, dtype=torch.uint8)
    shown = network.restore(network.transform(picture)[None])
    assert torch.allclose(shown, torch.full((1, 3, 160, 160), 0.2))


def test_a_tag_chooses_the_preprocessing_and_the_classes():
    small, large = (
        load(f"timm:vit_tiny_patch16_224.{tag}") for tag in ("augreg_in21k_ft_in1k", "augreg_in21k")
    )
    assert (len(small.classes), len(large.classes)) == (1000, 21843)
    assert len(set(large.classes)) > 10_000


SAVED = {
    "bare.pth": torch.save,
    "plain.safetensors": save_safetensors,
    "lightning.ckpt": lambda state, path: torch.save(
        {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3}, path
    ),
}


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("name", [VIT, CNN])
def test_a_saved_network_is_the_same_network(name, form, tmp_path):
    """The number of classes is read from the file."""
    model = made(name, num_classes=7)
    SAVED[form](model.state_dict(), tmp_path / form)
    network = load(name, tmp_path / form)
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(network.model(x), model(x))
    assert (network.source, network.classes) == (form, tuple("0123456"))
    named = load(name, tmp_path / form, classes=list("abcdefg"))
    assert named.classes == tuple("abcdefg")


def put_into(cache, name, state):
    """Write published weights where Hugging Face keeps what it has downloaded."""
    repository = cache / f"models--timm--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_safetensors(state, repository / "snapshots" / ("0" * 40) / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "weights"),
    [(VIT, "DEFAULT"), (VIT, DEFAULT), (f"{VIT}.{DEFAULT}", "DEFAULT"), (f"{VIT}.{DEFAULT}", None)],
)
def test_published_weights_are_taken_from_the_cache(name, weights, cache):
    """A tag alone does not ask for weights, as in timm."""
    model = made(VIT)
    put_into(cache, f"test_vit.{DEFAULT}", model.state_dict())
    network = load(name, weights)
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(network.model(x), model(x)) == (weights is not None)
    assert network.source == ("random" if weights is None else DEFAULT)


@pytest.mark.torture("weights of timm without a connection", "refused in one line with the URL")
def test_without_a_connection_it_says_what_to_fetch(happened):
    told = (
        r"download failed \(.*\); fetch https://huggingface\.co/timm/test_vit\.r160_in1k/resolve/"
        r"main/model\.safetensors elsewhere, and give the file by weights"
    )
    with pytest.raises(CheckpointError, match=told) as caught:
        load(VIT, "DEFAULT")
    assert "\n" not in str(caught.value)
    happened(str(caught.value))


def test_weights_that_are_no_safetensors_are_not_fetched():
    with pytest.raises(CheckpointError, match=r"not published as safetensors; fetch https?://\S+,"):
        load("timm:legacy_seresnet18", "DEFAULT")


UNKNOWN = {
    ("timm:vit_tiny_patch16", None): "close are .*timm:vit_tiny_patch16_224",
    ("timm:ResNet18", None): "close are timm:resnet18",
    ("timm:", None): "no network 'timm:'; close are none",
    ("timm:hf-hub:timm/resnet18", None): "no network",
    ("timm:local-dir:/tmp", None): "no network",
    (f"{VIT}.nope", None): "no weights 'nope'; timm:test_vit has r160_in1k",
    (VIT, "nope"): r"no weights 'nope'; timm:test_vit has r160_in1k, and takes any \.safetensors",
}


@pytest.mark.parametrize(("name", "weights"), UNKNOWN)
def test_other_names_are_refused_with_those_that_are_close(name, weights):
    with pytest.raises(UnknownNameError, match=UNKNOWN[name, weights]) as caught:
        load(name, weights)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_network_is_refused(tmp_path):
    save_safetensors(made(CNN).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors does not fit timm:test_vit: "):
        load(VIT, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"none\.pth: there is no such file"):
        load(VIT, "none.pth")


@pytest.mark.parametrize("package", ["timm", "huggingface_hub"])
def test_without_timm_it_says_how_to_install_it(package, monkeypatch):
    for module in list(sys.modules):
        if module.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=re.escape("pip install 'dmn[timm]'")):
        load(VIT, "DEFAULT")


def test_images_of_another_size_and_other_channels():
    """Also where the architecture is for one size, as of vision transformers."""
    for name in (VIT, CNN):
        network = load(name, num_classes=3, size=(1, 64, 96), mean=[0.25], std=[0.5])
        x = network.transform(torch.rand(3, 100, 100))
        assert x.shape == network.size == (1, 64, 96)
        assert network.model(x[None]).shape == (1, 3)
        assert (network.mean, network.std) == ((0.25,), (0.5,))


OPTIONS = (
    ({"num_classes": 0}, "num_classes is 0; give at least 1"),
    ({"size": (3, 0, 8)}, "'size' must be channels, height and width"),
    ({"classes": ["a", "b"]}, "classes are 2, but it has 1000 outputs"),
    ({"model": torch.nn.Identity()}, "model is for files of save_converted only"),
)


@pytest.mark.parametrize(("options", "told"), OPTIONS)
def test_options_that_do_not_fit_are_refused(options, told):
    with pytest.raises(OptionError, match=told) as caught:
        load(VIT, **options)
    assert "\n" not in str(caught.value)


def test_a_network_of_features_is_refused():
    name = "timm:vit_small_patch14_dinov2"
    with pytest.raises(OptionError, match="returns features"):
        load(name)
    assert load(name, num_classes=2).classes == ("0", "1")


@pytest.mark.parametrize("size", [None, (3, 64, 64)])
def test_a_converted_file_rebuilds_it(size, tmp_path, picture):
    original = load(CNN, num_classes=4, classes=list("abcd"), size=size)
    x = original.transform(picture)[None]
    path = save_converted(split(original.model, x), tmp_path / "a.safetensors", original=original)
    network = load(path)
    assert torch.equal(network.model(x), original.model(x))
    assert torch.equal(network.transform(picture), original.transform(picture))
    for known in ("classes", "size", "mean", "std"):
        assert getattr(network, known) == getattr(original, known), known


@pytest.mark.torture("a converted file that names timm's {text}", "refused in one line")
@pytest.mark.parametrize("text", ["timm:nothing", "timm:hf-hub:a/b", "timm:local-dir:/", "timm:"])
def test_names_inside_files_are_of_timms_own_networks(text, tmp_path, happened):
    original = load(CNN, num_classes=2)
    original.card["architecture"] = text
    converted = split(original.model, torch.rand(1, *original.size))
    path = save_converted(converted, tmp_path / "a.safetensors", original=original)
    with pytest.raises(DmnError, match=r"a\.safetensors is damaged.* no network") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    happened(str(caught.value).replace(str(tmp_path), ""))


def test_a_vision_transformer_is_explained_without_rules(picture):
    network = load(VIT)
    x = network.transform(picture)[None]
    for explain in (Gradient(network.model), IntegratedGradients(network.model)):
        maps = explain(x, 3)
        assert maps.shape == (1, 1, 160, 160)
        assert maps.isfinite().all()
        assert maps.abs().max() > 0
    cnn = load(CNN)
    assert GradCAM(cnn.model, layer="layer4")(x, 3).isfinite().all()
