"""Networks by name: shipped, of runs, of torchvision; and what is refused."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_pairs import tiny_pair

from dmn import resources
from dmn.models import PlainCNN
from dmn.networks import (
    CorruptCheckpointError,
    Network,
    UnknownNetworkError,
    _transform,
    load_network,
    save_network,
)
from dmn.posthoc import load
from dmn.weights import CheckpointError

SIDE = {"in_channels": 2, "widths": [4, 6], "units": 1, "grid": 2, "num_classes": 3}
PAIR = {
    "class_path": "dmn.models.DifferenceOfMonotone",
    "init_args": {
        side: {"class_path": "dmn.models.MonotoneConvNet", "init_args": SIDE} for side in "gh"
    },
}
CNN = {
    "class_path": "dmn.models.PlainCNN",
    "init_args": {"in_channels": 3, "widths": [4, 6], "num_classes": 2},
}
DATA = {"class_path": "dmn.data.MNIST", "init_args": {"fold": 0}}


def network(model, net, size, **others):
    """Make what `load_network` would give of a run."""
    classes = tuple("abc"[: net["init_args"].get("num_classes", 3)])
    card = {"name": "", "net": net, "data": DATA, "epochs": 3, "seed": 0}
    options = {"mean": None, "std": None, **others}
    return Network("tiny", model.eval(), classes, size, transform=None, card=card, **options)


@pytest.fixture
def saved(tmp_path):
    """Save a pair's weights and card."""
    return save_network(network(tiny_pair().float(), PAIR, (1, 8, 8)), tmp_path, command="make it")


@pytest.fixture
def run_folder(tmp_path):
    """Make what `dmn fit` leaves, as far as networks are concerned."""
    folder = tmp_path / "runs" / "mine" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "seed_everything": 7,
        "run": {"name": "mine"},
        "trainer": {"max_epochs": 4},
        "model": {"net": PAIR, "num_classes": 3},
        "data": DATA,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for seed, name in enumerate(("best", "last")):
        state = tiny_pair(seed=seed).float().state_dict()
        held = {"state_dict": {f"net.{key}": value for key, value in state.items()}, "epoch": 3}
        torch.save(held, folder / "checkpoints" / f"{name}.ckpt")
    return folder


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("kind", ["pair", "cnn"])
def test_what_was_saved_comes_back(kind, tmp_path):
    if kind == "pair":
        given = network(tiny_pair().float(), PAIR, (1, 8, 8))
    else:
        scale = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
        given = network(PlainCNN(3, (4, 6), num_classes=2), CNN, (3, 16, 12), **scale)
    path = save_network(given, tmp_path / "deep", accuracy={"test": 0.5}, command="make it")
    assert sorted(each.name for each in path.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]
    loaded = load_network(str(path))
    for name in ("name", "classes", "size", "mean", "std"):
        assert getattr(loaded, name) == getattr(given, name), name
    assert loaded.is_pair == (kind == "pair")
    assert loaded.card["accuracy"] == {"test": 0.5}
    assert loaded.card["command"] == "make it"
    assert {"python", "dmn", "torch"} <= loaded.card["versions"].keys()
    x = torch.rand(2, *given.size)
    assert torch.equal(loaded.model(x), given.model(x))
    assert not loaded.model.training
    assert not any(each.requires_grad for each in loaded.model.parameters())
    again = save_network(loaded, tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()


def test_shipped_networks_are_found_by_name(saved, monkeypatch):
    for module in ("dmn.resources", "dmn.networks"):
        monkeypatch.setattr(f"{module}.CHECKPOINTS", saved.parent)
    assert resources.checkpoint_names() == ["tiny"]
    assert load_network("tiny").classes == ("a", "b", "c")
    with pytest.raises(UnknownNetworkError, match=r"no network 'tony'.*\(tiny\).*resnet18"):
        load_network("tony")
    with pytest.raises(UnknownNetworkError, match=r"no network 'tiny' with weights 'DEFAULT'"):
        load_network("tiny", "DEFAULT")


@pytest.mark.parametrize("name", resources.checkpoint_names())
def test_what_is_shipped_loads_and_says_how_good_it_is(name):
    shipped = load_network(name)
    assert shipped.name == shipped.card["name"] == name
    assert shipped.model(torch.zeros(1, *shipped.size)).shape == (1, len(shipped.classes))
    low, high = shipped.card["accuracy"]["interval"]
    assert low <= shipped.card["accuracy"]["test"] <= high
    assert shipped.card["command"].startswith("dmn ")


def test_a_run_is_found_by_its_folder_or_a_checkpoint(run_folder):
    best = load_network(str(run_folder))
    assert (best.size, best.classes, best.card["seed"]) == ((1, 28, 28), ("0", "1", "2"), 7)
    x = torch.rand(2, 1, 8, 8)
    for seed, name in enumerate(("best", "last")):
        found = load_network(str(run_folder / "checkpoints" / f"{name}.ckpt"))
        assert torch.equal(found.model(x), tiny_pair(seed=seed).float()(x))
    assert torch.equal(best.model(x), tiny_pair(seed=0).float()(x))


@pytest.mark.parametrize(
    ("data", "size", "mean"),
    [
        ({"class_path": "dmn.data.Scenes", "init_args": {"size": 64}}, (3, 64, 64), None),
        ({"class_path": "dmn.data.CIFAR10", "init_args": {}}, (3, 32, 32), None),
        (
            {
                "class_path": "dmn.data.Folder",
                "init_args": {"size": 9, "mean": [0.5] * 3, "std": [1] * 3},
            },
            (3, 9, 9),
            (0.5, 0.5, 0.5),
        ),
        ({"class_path": "mine.Data"}, None, None),
    ],
)
def test_images_are_as_the_data_of_the_run(data, size, mean, run_folder):
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    (run_folder / "config.yaml").write_text(yaml.safe_dump({**config, "data": data}))
    found = load_network(str(run_folder))
    assert (found.size, found.mean) == (size, mean)


def test_torchvision_networks_come_with_their_preprocessing():
    found = load_network("squeezenet1_1")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (260, 300, 3), np.uint8))
    x = found.transform(picture)
    assert torch.equal(x, load("squeezenet1_1").transform(picture))
    assert x.shape == found.size == (3, 224, 224)
    assert len(found.classes) == 1000
    assert not found.is_pair
    restored = found.restore(x[None])
    assert restored.min() > -1e-6
    assert restored.max() < 1 + 1e-6
    with pytest.raises(UnknownNetworkError, match="gets no card"):
        save_network(found, "nowhere")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet81", None, r"no network 'resnet81'.*a run's folder.*close are.*resnet18"),
        ("squeezenet1_1", "BEST", r"'squeezenet1_1' with weights 'BEST'.*IMAGENET1K_V1"),
        ("none.safetensors", None, r"none\.json: there is no such file"),
        ("none.ckpt", None, r"config\.yaml: there is no such file"),
    ],
)
def test_unknown_names_are_told_what_there_is(name, weights, message):
    with pytest.raises(UnknownNetworkError, match=message):
        load_network(name, weights)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage_byte, shorten, empty])
def test_damaged_weights_are_refused_by_their_hash(harm, saved):
    harm(saved)
    with pytest.raises(CorruptCheckpointError, match=r"tiny\.safetensors: damaged"):
        load_network(str(saved))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"net"', '"nut"'),
        ('"classes"', '"names"'),
        ('"widths"', '"width"'),
        ('"num_classes": 3', '"num_classes": 4'),
        ('"units": 1', '"units": "x"'),
        ('"init_args": {', '"init_args": ["x"], "other": {'),
    ],
)
def test_cards_that_do_not_fit_are_refused(old, new, saved):
    change(saved.with_suffix(".json"), old, new)
    with pytest.raises(CorruptCheckpointError, match=r"tiny\.(safetensors|json): "):
        load_network(str(saved))


@pytest.mark.parametrize("text", ["[]", "1", "null", "\x00", ""])
def test_cards_and_configurations_that_are_none_are_refused(text, saved, run_folder):
    saved.with_suffix(".json").write_text(text)
    (run_folder / "config.yaml").write_text(text)
    for name in (saved, run_folder):
        with pytest.raises(CorruptCheckpointError, match=r"(tiny\.json|config\.yaml): "):
            load_network(str(name))


def test_a_configuration_of_something_else_is_refused(run_folder):
    (run_folder / "config.yaml").write_text("model: {net: 1}\n")
    with pytest.raises(CorruptCheckpointError, match=r"config\.yaml: no run's"):
        load_network(str(run_folder))
    (run_folder / "config.yaml").unlink()
    with pytest.raises(UnknownNetworkError, match="no network"):
        load_network(str(run_folder))


@pytest.mark.parametrize(
    "path", ["os.system", "dmn.posthoc.load", "torch.nn.Linear", "dmn.models.difference.explain"]
)
def test_only_networks_of_dmn_are_built(path, saved, run_folder):
    """However deep they are named; nothing else is imported, let alone called."""
    change(saved.with_suffix(".json"), "dmn.models.MonotoneConvNet", path)
    change(run_folder / "config.yaml", "dmn.models.MonotoneConvNet", path)
    for name in (saved, run_folder):
        with pytest.raises(UnknownNetworkError, match=rf"'{path}' is not built, only dmn\.models"):
            load_network(str(name))


class _Evil:
    def __reduce__(self):
        return (open, ("evil", "w"))


def test_checkpoints_execute_nothing(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, run_folder / "checkpoints" / "best.ckpt")
    with pytest.raises(CheckpointError, match=r"best\.ckpt: not a file of weights"):
        load_network(str(run_folder))
    assert not (tmp_path / "evil").exists()
    (run_folder / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"best\.ckpt: there is no such file"):
        load_network(str(run_folder))


def test_an_interrupted_save_leaves_what_there_was(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        save_network(network(tiny_pair(seed=1).float(), PAIR, (1, 8, 8)), saved.parent)
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


@pytest.mark.parametrize("shape", [(8, 8), (1, 90), (90, 3), (17, 31), (200, 100)])
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 16, 12)])
def test_pictures_of_any_shape_become_what_the_network_takes(shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    mean, std = (0.2,) * size[0], (0.5,) * size[0]
    x = _transform(size, mean, std, Image.fromarray(pixels))
    assert x.shape == size
    assert x.dtype == torch.float32
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(x, _transform(size, mean, std, tensor))
    assert torch.allclose(x, _transform(size, mean, std, tensor / 255))
    plain = _transform(size, None, None, tensor)
    assert torch.allclose(x, (plain - 0.2) / 0.5, atol=1e-6)
    assert 0 <= plain.min() <= plain.max() <= 1 + 1e-6


def test_pictures_are_grey_as_pillow_has_it_and_cut_to_their_centre():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(pixels)
    x = _transform((1, 8, 8), None, None, picture)
    assert np.abs(255 * x[0].numpy() - np.asarray(picture.convert("L"))).max() < 1
    same = _transform((3, 8, 8), None, None, picture)
    assert torch.equal((255 * same).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(_transform(None, None, None, picture), same)
    wide = torch.zeros(1, 8, 24)
    wide[..., 8:16] = 1
    assert torch.equal(_transform((3, 8, 8), None, None, wide), torch.ones(3, 8, 8))


def test_cards_can_be_read_by_people(saved):
    card = json.loads(saved.with_suffix(".json").read_text())
    assert list(card)[:2] == ["name", "net"]
    assert card["name"] == "tiny"
    assert card["data"] == DATA
