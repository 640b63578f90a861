"""Image classifiers of Hugging Face, from local folders: nothing is downloaded, no code is run."""

import json
import logging
import pickle
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from hugging_face_folders import CLASSES, KINDS, make, make_processor, save
from PIL import Image
from transformers import BertConfig

from dmn.baselines import GradCAM, Gradient, IntegratedGradients
from dmn.errors import (
    CheckpointError,
    DmnError,
    MissingPackageError,
    OptionError,
    UnknownNameError,
    UnsupportedError,
)
from dmn.hub import load, save_converted
from dmn.nn import predict_logits
from dmn.split import split


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def vit(tmp_path):
    """Save a vision transformer with its processor; return the folder."""
    save(make("ViT"), tmp_path / "vit", make_processor("ViT"))
    return tmp_path / "vit"


def change(file, **values):
    """Change what a JSON file says; None leaves it out."""
    changed = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def change_weights(folder, change_state):
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    change_state(state)
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})


def refused(kind, told, name, *args, **options):
    """Check that a name is refused in one line, which is returned."""
    with pytest.raises(kind, match=told) as caught:
        load(name, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_a_network_with_its_transform_and_its_classes(kind, tmp_path, picture):
    model, processor = make(kind), make_processor(kind)
    network = load(save(model, tmp_path, processor))
    expected = processor(images=picture, return_tensors="pt")["pixel_values"]
    x = network.transform(picture)[None]
    assert torch.equal(x, expected)
    with torch.no_grad():
        logits, others = network.model(x).logits, network.model(x.roll(1, dims=1)).logits
        assert torch.equal(logits, model(x).logits)
    assert (logits - others).abs().max() > 1e-4 * logits.abs().max() > 0
    assert (network.classes, network.source) == (CLASSES, "model.safetensors")
    assert network.size is None or network.size == x.shape[1:]
    assert not any(module.training for module in network.model.modules())
    assert not any(parameter.requires_grad for parameter in network.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_shown_again(kind, tmp_path):
    """Of MobileViT, which takes blue first, too."""
    network = load(save(make(kind), tmp_path, make_processor(kind)))
    picture = torch.tensor([51, 102, 204], dtype=torch.uint8).view(3, 1, 1).expand(3, 80, 100)
    shown = network.restore(network.transform(picture)[None])
    expected = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1).expand_as(shown)
    assert torch.allclose(shown, expected, atol=1e-5)
    assert network.bgr == (kind == "MobileViT")


RESCALED = (
    {"do_normalize": False},
    {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 2.0]},
    {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3},
    {"rescale_factor": 1 / 127.5},
)


@pytest.mark.parametrize("options", RESCALED)
def test_mean_and_std_are_what_the_processor_does(options, tmp_path, picture):
    network = load(save(make("ViT"), tmp_path, make_processor("ViT", **options)))
    resized = make_processor("ViT", do_normalize=False)(images=picture, return_tensors="pt")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    expected = (resized["pixel_values"][0] - mean) / std
    assert torch.allclose(network.transform(picture), expected, rtol=1e-4, atol=1e-4)


def test_tensors_are_prepared_as_pictures_are(vit, picture):
    network = load(f"hf:{vit}")
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    for tensor in (pixels, pixels / 255):
        assert torch.equal(network.transform(tensor), network.transform(picture))


def test_grey_networks_take_grey_pictures(tmp_path, picture):
    processor = make_processor("ViT", image_mean=[0.5], image_std=[0.25])
    network = load(save(make("ViT", num_channels=1), tmp_path, processor))
    x = network.transform(picture)[None]
    assert x.shape == (1, *network.size) == (1, 1, 32, 32)
    assert (network.mean, network.std) == ((0.5,), (0.25,))
    assert predict_logits(network.model, x).shape == (1, 3)


def test_without_a_preprocessor_it_says_what_it_assumes(tmp_path, caplog, picture):
    with caplog.at_level(logging.INFO):
        network = load(save(make("ViT"), tmp_path))
    (line,) = caplog.messages
    assert "no preprocessor_config.json, so pictures are prepared as vit networks mostly" in line
    assert "3x32x32, mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]" in line
    assert network.transform(picture).shape == network.size == (3, 32, 32)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        network = load(f"hf:{tmp_path}", size=(3, 32, 32), mean=[0], std=[1])
    assert not caplog.messages
    assert (network.mean, network.std) == ((0,), (1,))


def test_images_are_described_by_options(vit):
    network = load(f"hf:{vit}", mean=[0.1, 0.2, 0.3], classes=["a", "b", "c"])
    assert (network.size, network.std) == ((3, 32, 32), (0.5, 0.5, 0.5))
    assert (network.mean, network.classes) == ((0.1, 0.2, 0.3), ("a", "b", "c"))
    x = network.transform(torch.full((3, 40, 40), 0.5))
    assert torch.allclose(x.mean((1, 2)), torch.tensor([0.8, 0.6, 0.4]))


def test_classes_that_are_only_numbered_are_numbers(tmp_path):
    model = make("ViT", labels={"num_labels": 4})
    assert load(save(model, tmp_path, make_processor("ViT"))).classes == tuple("0123")


def test_random_weights_are_given_if_they_are_asked_for(vit):
    (vit / "model.safetensors").unlink()
    name = f"hf:{vit}"
    refused(CheckpointError, r"no model\.safetensors, and nothing is .*weights 'random'", name)
    network = load(name, "random")
    assert (network.source, network.classes) == ("random", CLASSES)
    network = load(name, "random", num_classes=5)
    assert network.classes == tuple("01234")
    assert predict_logits(network.model, torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_another_file_of_weights(vit, tmp_path):
    model = make("ViT")
    torch.nn.init.ones_(model.classifier.bias)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    network = load(f"hf:{vit}", tmp_path / "mine.safetensors")
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.model(x).logits, model(x).logits)
    assert network.source == "mine.safetensors"
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    told = r"mine\.pth: give a \.safetensors file"
    refused(CheckpointError, told, f"hf:{vit}", tmp_path / "mine.pth")


def test_weights_in_half_precision_are_computed_with_in_single(tmp_path):
    name = save(make("ViT").half(), tmp_path, make_processor("ViT"))
    network = load(name)
    assert {value.dtype for value in network.model.parameters()} == {torch.float32}


class Exploding:
    def __reduce__(self):
        return exec, ("raise AssertionError('its code was run')",)


@pytest.mark.torture("a folder with {file} only, which holds code", "refused by name, not run")
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "tf_model.h5", "model.ckpt"])
def test_pickled_weights_are_refused_by_name(file, vit, happened):
    (vit / "model.safetensors").unlink()
    (vit / file).write_bytes(pickle.dumps(Exploding()))
    told = refused(CheckpointError, f"{file} is not read, only model.safetensors", f"hf:{vit}")
    refused(CheckpointError, r"give a \.safetensors file", f"hf:{vit}", vit / file)
    happened(told.replace(str(vit), ""))


CODE = {"AutoModelForImageClassification": "modeling.Net", "AutoConfig": "modeling.Config"}
DANGERS = {  # what a file is told to say besides
    "code": ("config.json", {"auto_map": CODE}),
    "code of elsewhere": ("config.json", {"auto_map": {"AutoConfig": "a/b--modeling.Config"}}),
    "code within": ("config.json", {"backbone_config": {"auto_map": CODE}}),
    "code of the processor": (
        "preprocessor_config.json",
        {"auto_map": {"AutoImageProcessor": "p"}},
    ),
    "quantized weights": ("config.json", {"quantization_config": {"quant_method": "awq"}}),
}


@pytest.mark.torture("a folder that asks for {danger}", "refused by name, nothing imported")
@pytest.mark.parametrize("danger", DANGERS)
def test_folders_that_ask_for_code_are_refused(danger, vit, happened):
    file, values = DANGERS[danger]
    (vit / "modeling.py").write_text("raise AssertionError('its code was run')")
    change(vit / file, **values)
    told = refused(CheckpointError, rf"{file}: .*\((auto_map|quantization_config)\)", f"hf:{vit}")
    assert "modeling" not in sys.modules
    happened(told.replace(str(vit), ""))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_that_are_to_be_fetched_are_not(key, vit):
    change(vit / "config.json", **{key: "kernels-community/flash-attn"})
    assert load(f"hf:{vit}").model.config._attn_implementation == "eager"


def test_what_is_no_image_classifier_is_refused_by_name(vit):
    name, file = f"hf:{vit}", vit / "config.json"
    change(file, architectures=["ViTForMaskedImageModeling"])
    told = r"ViTForMaskedImageModeling is no image classifier, as ViTForImageClassification is"
    refused(UnsupportedError, told, name)
    change(file, architectures=None, model_type="nothing")
    refused(UnsupportedError, "transformers has no networks of model_type 'nothing'", name)
    change(file, model_type=None, architecture="resnet18")
    told = r"is of timm's resnet18; give timm:resnet18 with its model\.safetensors as weights"
    refused(UnsupportedError, told, name)
    file.write_text(BertConfig(architectures=["BertForMaskedLM"]).to_json_string())
    refused(UnsupportedError, r"BertForMaskedLM is no image classifier$", name)


def drop_head(state):
    del state["classifier.weight"], state["classifier.bias"]


def widen_head(state):
    state["classifier.weight"], state["classifier.bias"] = torch.rand(4, 32), torch.rand(4)


def spoil(state):
    state["classifier.bias"] = torch.full((3,), torch.nan)


WEIGHTS = {
    drop_head: r"2 missing: classifier\.bias, classifier\.weight; is it of this network",
    widen_head: r"2 misshapen: classifier\.bias \(4,\) for \(3,\), classifier.weight \(4, 32\) for",
    spoil: r"not finite: classifier\.bias",
}


@pytest.mark.parametrize("fault", WEIGHTS, ids=lambda fault: fault.__name__)
def test_weights_of_another_network_are_refused(fault, vit):
    """A head for another number of labels, none, or weights that are not numbers."""
    change_weights(vit, fault)
    refused(CheckpointError, WEIGHTS[fault], f"hf:{vit}")


def test_weights_that_are_left_over_are_told(vit, caplog):
    change_weights(vit, lambda state: state.update(spare=torch.rand(2)))
    with caplog.at_level(logging.INFO):
        load(f"hf:{vit}")
    assert any("left out: spare" in line for line in caplog.messages)


LABELLED = (
    ({"id2label": {"0": "cat", "2": "dog"}}, "id2label must name classes 0, 1, 2"),
    ({"id2label": ["cat", "dog"]}, "id2label must name classes 0, 1, 2"),
    ({"num_labels": 5}, "num_labels is 5, but id2label names 3 classes"),
    ({"id2label": {"0": "cat", "1": "dog"}}, r"does not fit .* 2 misshapen: classifier"),
)


@pytest.mark.parametrize(("values", "told"), LABELLED)
def test_labels_that_do_not_fit_are_refused(values, told, vit):
    change(vit / "config.json", **values)
    refused(CheckpointError, told, f"hf:{vit}")


def test_other_options_that_do_not_fit_are_refused(vit, tmp_path):
    refused(OptionError, "classes are 2, but it has 3 outputs", f"hf:{vit}", classes=["a", "b"])
    refused(CheckpointError, "2 misshapen", f"hf:{vit}", num_classes=4)
    refused(OptionError, "num_classes is 0; give at least 1", f"hf:{vit}", num_classes=0)
    refused(OptionError, "model is for files", f"hf:{vit}", model=torch.nn.Identity())
    name = save(make("MobileViT"), tmp_path / "m", make_processor("MobileViT"))
    refused(OptionError, "takes blue before red", name, size=(3, 64, 64))


BROKEN = {
    "config.json": ("{", "[1]", '{"model_type": "vit", "hidden_size": "a"}', "[" * 10**5, "\xff"),
    "preprocessor_config.json": ("{", "3", '{"image_std": [0, 0, 0]}', '{"size": "large"}'),
}


@pytest.mark.torture("damaged {file}: {text:.20}", "refused in one line")
@pytest.mark.parametrize(
    ("file", "text"), [(file, text) for file, texts in BROKEN.items() for text in texts]
)
def test_damaged_files_are_refused(file, text, vit, happened):
    (vit / file).write_text(text, encoding="latin-1")
    happened(refused(DmnError, file.replace(".", r"\."), f"hf:{vit}").replace(str(vit), ""))


def test_a_configuration_far_larger_than_its_weights_is_refused(vit):
    change(vit / "config.json", hidden_size=2**16, intermediate_size=2**18, num_hidden_layers=99)
    refused(CheckpointError, "is told to be of a network far larger than it is", f"hf:{vit}")


@pytest.mark.parametrize("name", ["hf:nowhere", "hf:google/vit-base-patch16-224", "hf:", "hf:a\0b"])
def test_a_folder_that_is_not_there_is_not_downloaded(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(UnknownNameError, "there is no such folder; hf:FOLDER takes one as", name)
    (tmp_path / "empty").mkdir()
    refused(CheckpointError, r"empty: there is no config\.json", "hf:empty")


def test_without_transformers_it_says_how_to_install_it(vit, monkeypatch):
    for module in list(sys.modules):
        if module.partition(".")[0] == "transformers":
            monkeypatch.setitem(sys.modules, module, None)
    refused(MissingPackageError, r"pip install 'dmn\[huggingface\]'", f"hf:{vit}")


@pytest.mark.parametrize("described", [{}, {"size": (3, 48, 48), "mean": [0.5], "std": [0.5]}])
def test_a_converted_file_rebuilds_it(described, tmp_path, picture):
    original = load(save(make("ResNet"), tmp_path, make_processor("ResNet")), **described)
    x = original.transform(picture)[None]
    path = save_converted(split(original.model, x), tmp_path / "a.safetensors", original=original)
    network = load(path)
    assert torch.equal(predict_logits(network.model, x), predict_logits(original.model, x))
    assert torch.equal(network.transform(picture), original.transform(picture))
    for known in ("classes", "size", "mean", "std", "bgr"):
        assert getattr(network, known) == getattr(original, known), known


@pytest.mark.torture("a converted file whose configuration asks for code", "refused in one line")
def test_configurations_inside_files_ask_for_no_code(tmp_path, picture, happened):
    original = load(save(make("ResNet"), tmp_path, make_processor("ResNet")))
    x = original.transform(picture)[None]
    original.card["huggingface"]["config"]["auto_map"] = CODE
    path = save_converted(split(original.model, x), tmp_path / "a.safetensors", original=original)
    happened(refused(CheckpointError, r"is damaged, .*auto_map", path))


@pytest.mark.parametrize("kind", ["ViT", "ConvNext", "ResNet"])
def test_they_are_explained_without_rules(kind, tmp_path, picture):
    network = load(save(make(kind), tmp_path, make_processor(kind)))
    x = network.transform(picture)[None]
    methods = [Gradient(network.model), IntegratedGradients(network.model)]
    if kind != "ViT":
        last = {"ConvNext": "convnext.encoder.stages.2", "ResNet": "resnet.encoder.stages.1"}[kind]
        methods.append(GradCAM(network.model, layer=last))
    for explain in methods:
        maps = explain(x, 1)
        assert maps.shape == (1, 1, *x.shape[2:])
        assert maps.isfinite().all()
        assert maps.abs().max() > 0
