"""Real torchvision networks, real files and, for downloads, a real server on this machine."""

import hashlib
import json
import pickle
import random
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

from dmn.errors import CheckpointError, DmnError, OptionError, UnknownNameError
from dmn.hub import load, save_converted
from dmn.split import split

SMALL = ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5"]
FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large"),
    *("resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "swin_v2_t"),
    *("vgg16", "vgg16_bn", "vit_b_16", "vit_l_16", "wide_resnet50_2"),
]
IMAGENET = models.ResNet18_Weights.DEFAULT.meta["categories"]
SQUEEZENET = models.SqueezeNet1_1_Weights.IMAGENET1K_V1


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """Give each test an empty torch hub folder, and no way around this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 300, 280), dtype=torch.uint8)


def network(name, **options):
    """Build torchvision's network, with statistics that only evaluation mode uses."""
    model = models.get_model(name, weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return model.eval()


def constants(name, seed=0, **options):
    """Return a state dict of one random number a tensor, in half precision: a smaller file."""
    with torch.device("meta"):
        own = models.get_model(name, weights=None, **options).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.full(
            value.shape,
            torch.rand((), generator=generator).item(),
            dtype=torch.float16 if value.is_floating_point() else value.dtype,
        )
        for key, value in own.items()
    }


def save_safetensors(state, path, **metadata):
    dense = {key: value.clone().contiguous() for key, value in state.items()}
    safetensors.torch.save_file(dense, path, metadata=metadata or None)


SAVED = {
    "bare.pth": lambda model, path: torch.save(model.state_dict(), path),
    "old.pt": lambda model, path: torch.save(
        model.state_dict(), path, _use_new_zipfile_serialization=False
    ),
    "training.pt": lambda model, path: torch.save(
        {"state_dict": model.state_dict(), "epoch": 3, "optimizer": {"lr": [0.1]}}, path
    ),
    "parallel.pth": lambda model, path: torch.save(
        {"model": nn.DataParallel(model).state_dict()}, path
    ),
    "plain.safetensors": lambda model, path: save_safetensors(model.state_dict(), path),
    "lightning.ckpt": lambda model, path: torch.save(
        {"state_dict": nn.ModuleDict({"model": model}).state_dict(), "epoch": 3}, path
    ),
    "loss.pth.tar": lambda model, path: torch.save(
        {
            "model_state_dict": {
                **nn.ModuleDict({"backbone": nn.DataParallel(model)}).state_dict(),
                "criterion.weight": torch.ones(7),
            }
        },
        path,
    ),
    "averaged.safetensors": lambda model, path: save_safetensors(
        torch.optim.swa_utils.AveragedModel(model).state_dict(), path
    ),
}


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("name", SMALL)
def test_a_saved_network_is_the_same_network(name, form, tmp_path):
    """Whatever the form of the file; the number of classes is read from it."""
    model = network(name, num_classes=7)
    SAVED[form](model, tmp_path / form)
    torch.manual_seed(9)
    loaded = load(name, tmp_path / form)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), model(x))
    assert (loaded.name, loaded.source) == (name, form)
    assert loaded.classes == tuple("0123456")
    assert not any(module.training for module in loaded.model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_counts_its_classes(name):
    """The last layer is the classifier."""
    with torch.device("meta"):
        assert load(name, num_classes=3).classes == ("0", "1", "2")
        assert load(name).classes == tuple(IMAGENET)


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "regnet_y_400mf", "swin_t"])
def test_the_network_takes_what_the_transform_gives(name, image):
    loaded = load(name, num_classes=4)
    expected = models.get_model_weights(name).DEFAULT.transforms()(image)
    assert torch.equal(loaded.transform(image), expected)
    with torch.no_grad():
        logits = loaded.model(loaded.transform(image)[None])
    assert logits.shape == (1, len(loaded.classes))
    assert loaded.source == "random"


def test_networks_of_fixed_size_are_built_for_their_transform():
    """Of the vision transformers, one expects 518 pixels by default."""
    for name in ("vit_b_32", "vit_h_14"):
        with torch.device("meta"):
            loaded = load(name)
        assert [loaded.model.image_size] == loaded.transform.crop_size


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_heads_may_be_in_the_file_or_not(name, auxiliary, tmp_path):
    model = network(name, num_classes=4, aux_logits=auxiliary, init_weights=False)
    assert any("aux" in key.lower() for key in model.state_dict()) == auxiliary
    torch.save(model.state_dict(), tmp_path / "own.pth")
    loaded = load(name, tmp_path / "own.pth")
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), model(x))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_only_torchvisions_weights_transform_their_input(name, tmp_path):
    published = Path(models.get_model_weights(name).DEFAULT.url).name
    for file in ("own.pth", published):
        torch.save(constants(name, init_weights=False), tmp_path / file)
        assert load(name, tmp_path / file).model.transform_input == (file == published)
    assert not load(name).model.transform_input


def test_a_file_that_keeps_its_name_keeps_its_preprocessing(image, tmp_path):
    first, second = models.MobileNet_V2_Weights.IMAGENET1K_V1, models.MobileNet_V2_Weights.DEFAULT
    assert not torch.equal(first.transforms()(image), second.transforms()(image))
    for file, expected in ((Path(first.url).name, first), ("own.pth", second)):
        torch.save(constants("mobilenet_v2"), tmp_path / file)
        loaded = load("mobilenet_v2", tmp_path / file)
        assert torch.equal(loaded.transform(image), expected.transforms()(image))
        assert loaded.classes == tuple(IMAGENET)


OLD_NAMES = {
    "densenet121": {r"(denselayer\d+\.\w+)([12]\.)": r"\1.\2"},
    "vit_b_32": {r"mlp\.0\.": "mlp.linear_1.", r"mlp\.3\.": "mlp.linear_2."},
}


@pytest.mark.parametrize("name", OLD_NAMES)
def test_torchvisions_files_of_old_are_read(name, tmp_path):
    """They hold keys that its networks no longer have, which it renames as it loads."""
    state = given = constants(name)
    for pattern, old in OLD_NAMES[name].items():
        renamed = {re.sub(pattern, old, key): value for key, value in given.items()}
        assert renamed.keys() != given.keys()
        given = renamed
    torch.save(given, tmp_path / "old.pth")
    loaded = load(name, tmp_path / "old.pth").model.state_dict()
    assert all(torch.equal(loaded[key], value.to(loaded[key])) for key, value in state.items())


def test_counters_of_batches_may_lack(tmp_path):
    model = network("resnet18", num_classes=3)
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    save_safetensors(state, tmp_path / "old.safetensors")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load("resnet18", tmp_path / "old.safetensors").model(x), model(x))


def test_a_file_names_its_classes(tmp_path):
    state = network("squeezenet1_1", num_classes=3).state_dict()
    path = tmp_path / "named.safetensors"
    save_safetensors(state, path, classes=json.dumps(["cat", "dog", "émeu"]))
    assert load("squeezenet1_1", str(path)).classes == ("cat", "dog", "émeu")
    for other in ('["cat", "dog"]', "[1, 2, 3]", '"cat"', '{"a": 1, "b": 2, "c": 3}'):
        save_safetensors(state, path, classes=other)
        with pytest.raises(CheckpointError, match=r"named\.safetensors: .* name 3 classes"):
            load("squeezenet1_1", path)
    for unread in ("cat, dog", "[" * 10**5):
        save_safetensors(state, path, classes=unread)
        with pytest.raises(
            CheckpointError, match=r"named\.safetensors: its metadata cannot be read"
        ):
            load("squeezenet1_1", path)


FAULTS = {
    r"102 missing: conv1\.weight, bn1\.weight, .*; 1 unexpected: other": lambda state: {
        "other": torch.zeros(1)
    },
    r"1 missing: layer1\.0\.conv1\.weight; ": lambda state: state.pop("layer1.0.conv1.weight"),
    "9 unexpected: k0, k1, .*, k7 and 1 more; ": lambda state: state.update(
        {f"k{index}": torch.zeros(1) for index in range(9)}
    ),
    r"1 misshapen: conv1\.weight \(64, 1, 7, 7\) for \(64, 3, 7, 7\)": lambda state: state.update(
        {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    ),
    r"2 misshapen: fc\.weight \(\) for \(1000, 512\), fc\.bias": lambda state: state.update(
        {"fc.weight": torch.tensor(1.0)}
    ),
    r"1 of another type: bn1\.bias torch.int64 for torch.float32": lambda state: state.update(
        {"bn1.bias": torch.zeros(64, dtype=torch.int64)}
    ),
}


@pytest.mark.parametrize("told", FAULTS)
def test_what_does_not_fit_is_refused_by_name(told, tmp_path):
    state = dict(network("resnet18", num_classes=3).state_dict())
    changed = FAULTS[told](state)
    torch.save(changed if "102 missing" in told else state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=rf"odd\.pth does not fit resnet18: .*{told}"):
        load("resnet18", tmp_path / "odd.pth")


def test_the_classes_asked_for_must_be_those_of_the_file(tmp_path):
    torch.save(network("resnet18", num_classes=3).state_dict(), tmp_path / "three.pth")
    assert load("resnet18", tmp_path / "three.pth", num_classes=3).classes == ("0", "1", "2")
    told = r"2 misshapen: fc\.weight \(3, 512\) for \(4, 512\), .* if num_classes is None"
    with pytest.raises(CheckpointError, match=told):
        load("resnet18", tmp_path / "three.pth", num_classes=4)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was executed')",)


def test_files_are_read_without_executing_code(tmp_path):
    torch.save({"fc.weight": Malicious()}, tmp_path / "evil.pt")
    torch.save(network("squeezenet1_1"), tmp_path / "module.pt")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("evil.pt", "module.pt", "pickle.pth"):
        with pytest.raises(CheckpointError, match=f"{name}: not a file of weights"):
            load("squeezenet1_1", tmp_path / name)


@pytest.mark.parametrize("form", SAVED)
def test_damaged_files_are_refused_by_name(form, tmp_path):
    """Cut short anywhere, or overwritten at the start, where the structure is told."""
    path = tmp_path / form
    SAVED[form](nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), path)
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(40):
        path.write_bytes(whole[: chance.randrange(len(whole))])
        with pytest.raises(CheckpointError, match=re.escape(f"{form}: not a file of weights")):
            load("squeezenet1_1", path)
        noise = chance.randbytes(20)
        path.write_bytes(noise + whole[len(noise) :])
        with pytest.raises(CheckpointError, match=re.escape(form)):
            load("squeezenet1_1", path)


@pytest.mark.parametrize("held", [3, [torch.zeros(2)], torch.zeros(3)])
def test_what_is_no_dictionary_is_refused(held, tmp_path):
    torch.save(held, tmp_path / "else.pt")
    with pytest.raises(CheckpointError, match=r"else\.pt: not a file of weights"):
        load("squeezenet1_1", tmp_path / "else.pt")


def test_what_holds_more_than_weights_is_refused_by_name(tmp_path):
    torch.save({"fc.weight": torch.zeros(2), "epoch": 3}, tmp_path / "more.pt")
    with pytest.raises(
        CheckpointError, match=r"more\.pt: holds other things than weights: epoch \(int\)"
    ):
        load("squeezenet1_1", tmp_path / "more.pt")


def test_unknown_names_say_what_there_is():
    for name, close in {"VGG16": "vgg16", "vgg61": "vgg16", "zzz": "none"}.items():
        with pytest.raises(
            UnknownNameError, match=rf"no classifier '{name}'.*\b{close}\b.*list_mo"
        ):
            load(name)
    for weights in ("IMAGENET1K_V9", "weights.bin", "", Path("DEFAULT")):
        told = "no weights '.*'; resnet50 has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, .*\\.pth"
        with pytest.raises(UnknownNameError, match=told):
            load("resnet50", weights)
    with pytest.raises(UnknownNameError, match="vgg16 has IMAGENET1K_V1, DEFAULT, and"):
        load("vgg16", "IMAGENET1K_FEATURES")  # their classifier holds no numbers


def test_errors_are_the_projects(tmp_path):
    path = tmp_path / "none.pth"
    with pytest.raises(CheckpointError, match=r"none\.pth: there is no such file; .*DEFAULT"):
        load("resnet18", path)
    with pytest.raises(DmnError, match="none"):
        load("resnet18", str(path))
    with pytest.raises(UnknownNameError, match="no classifier"):
        load("resnet")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Publish squeezenet's weights on this machine, under the name of their hash."""
    folder = tmp_path / "published"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish(content=None):
        torch.save(constants("squeezenet1_1"), folder / "new")
        content = content or (folder / "new").read_bytes()
        path = folder / f"squeezenet1_1-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        path.write_bytes(content)
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        monkeypatch.setattr(SQUEEZENET.value, "url", url)
        return path

    yield publish
    server.shutdown()
    server.server_close()


def test_named_weights_are_fetched_once(published, hub, image):
    """Into torch hub's folder, where they are found without the network."""
    file = published()
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        loaded = load("squeezenet1_1", weights)
        state = loaded.model.state_dict()
        given = constants("squeezenet1_1")
        assert all(torch.equal(state[key], value.float()) for key, value in given.items())
        assert loaded.source == "IMAGENET1K_V1"
        assert loaded.classes == tuple(IMAGENET)
        assert torch.equal(loaded.transform(image), SQUEEZENET.transforms()(image))
        assert [path.name for path in hub.iterdir()] == [file.name]
        file.unlink(missing_ok=True)
    with pytest.raises(
        CheckpointError, match=r"classifier\.1\.weight \(1000, .* num_classes is None"
    ):
        load("squeezenet1_1", "DEFAULT", num_classes=10)


def test_without_the_network_one_is_told_what_to_fetch(published, hub):
    file = published()
    content = file.read_bytes()
    file.unlink()
    told = re.escape(f"fetch {SQUEEZENET.url} elsewhere and save it as {hub / file.name}")
    with pytest.raises(CheckpointError, match=told):
        load("squeezenet1_1", "DEFAULT")
    (hub / file.name).write_bytes(content)
    assert load("squeezenet1_1", "DEFAULT").source == "IMAGENET1K_V1"


def test_downloads_of_another_hash_are_not_kept(published, hub):
    file = published()
    file.write_bytes(b"an error page")
    with pytest.raises(CheckpointError, match="invalid hash value"):
        load("squeezenet1_1", "DEFAULT")
    assert list(hub.iterdir()) == []


def test_damaged_files_in_the_folder_are_refused_by_name(published, hub):
    file = published()
    load("squeezenet1_1", "DEFAULT")
    cached = hub / file.name
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=re.escape(f"{cached}: damaged, by its hash; delete it")
    ):
        load("squeezenet1_1", "DEFAULT")
    file = published(b"of the right hash, but no weights")
    with pytest.raises(
        CheckpointError, match=re.escape(f"{hub / file.name}: not a file of weights")
    ):
        load("squeezenet1_1", "DEFAULT")


def test_pictures_and_classes_are_as_somebody_elses_training_had_them(tmp_path, image, caplog):
    """Others train on small images that they normalise as they like; the converted file knows."""
    state = network("squeezenet1_1", num_classes=2).state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    own = {"size": (3, 40, 48), "mean": [0.5], "std": [0.25], "classes": ["cat", "dog"]}
    ours = load("squeezenet1_1", tmp_path / "theirs.pth", **own)
    assert not caplog.records
    x = ours.transform(image)
    assert x.shape == (3, 40, 48)
    assert torch.allclose(ours.restore(x[None]).clamp(0, 1), ours.restore(x[None]), atol=1e-6)
    assert x.abs().max() <= 2
    assert ours.classes == ("cat", "dog")
    save_converted(split(ours.model), tmp_path / "split.safetensors", original=ours)
    again = load(tmp_path / "split.safetensors")
    assert (again.size, again.mean, again.std) == (ours.size, ours.mean, ours.std)
    assert torch.equal(again.transform(image), x)
    assert again.classes == ours.classes


def test_what_is_not_said_of_pictures_is_torchvisions_and_logged(tmp_path, image, caplog):
    torch.save(constants("squeezenet1_1"), tmp_path / "theirs.pth")
    with caplog.at_level("INFO"):
        plainly = load("squeezenet1_1", tmp_path / "theirs.pth")
    assert re.search("prepared as for IMAGENET1K_V1.* give size, mean and std", caplog.text)
    smaller = load("squeezenet1_1", tmp_path / "theirs.pth", size=(3, 64, 64))
    assert (smaller.mean, smaller.std) == (plainly.mean, plainly.std)
    assert smaller.transform(image).shape == (3, 64, 64)


def test_a_name_for_each_class(tmp_path):
    torch.save(constants("squeezenet1_1", num_classes=2), tmp_path / "theirs.pth")
    with pytest.raises(OptionError, match="classes are 3, but it has 2 outputs"):
        load("squeezenet1_1", tmp_path / "theirs.pth", classes=["a", "b", "c"])
