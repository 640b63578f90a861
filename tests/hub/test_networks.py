"""Networks by name: shipped, of runs, of torchvision; and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import effort
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_pairs import tiny_pair

from dmn.errors import CheckpointError, DmnError, UnknownNameError
from dmn.hub import Network, load, save_network
from dmn.hub.cards import LARGEST_IMAGE
from dmn.hub.preprocess import crop, preprocess
from dmn.io import resources
from dmn.models import PlainCNN

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
    """Make what `load` would give of a run."""
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
    loaded = load(str(path))
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
    for module in ("dmn.io.resources", "dmn.hub.shipped"):
        monkeypatch.setattr(f"{module}.CHECKPOINTS", saved.parent)
    assert resources.checkpoint_names() == ["tiny"]
    assert load("tiny").classes == ("a", "b", "c")
    with pytest.raises(UnknownNameError, match=r"no network 'tony'.*\(tiny\).*resnet18"):
        load("tony")
    with pytest.raises(UnknownNameError, match=r"no network 'tiny' with weights 'DEFAULT'"):
        load("tiny", "DEFAULT")


@pytest.mark.parametrize("name", resources.checkpoint_names())
def test_what_is_shipped_loads_and_says_how_good_it_is(name):
    shipped = load(name)
    assert shipped.name == shipped.card["name"] == name
    assert shipped.model(torch.zeros(1, *shipped.size)).shape == (1, len(shipped.classes))
    low, high = shipped.card["accuracy"]["interval"]
    assert low <= shipped.card["accuracy"]["test"] <= high
    assert shipped.card["command"].startswith("dmn ")


def test_a_run_is_found_by_its_folder_or_a_checkpoint(run_folder):
    best = load(str(run_folder))
    assert (best.size, best.classes, best.card["seed"]) == ((1, 28, 28), ("0", "1", "2"), 7)
    x = torch.rand(2, 1, 8, 8)
    for seed, name in enumerate(("best", "last")):
        found = load(str(run_folder / "checkpoints" / f"{name}.ckpt"))
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
    found = load(str(run_folder))
    assert (found.size, found.mean) == (size, mean)


def test_torchvision_networks_come_with_their_preprocessing():
    found = load("squeezenet1_1")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (260, 300, 3), np.uint8))
    x = found.transform(picture)
    assert torch.equal(x, load("squeezenet1_1").transform(picture))
    assert x.shape == found.size == (3, 224, 224)
    assert len(found.classes) == 1000
    assert not found.is_pair
    restored = found.restore(x[None])
    assert restored.min() > -1e-6
    assert restored.max() < 1 + 1e-6
    with pytest.raises(UnknownNameError, match="gets no card"):
        save_network(found, "nowhere")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet81", None, r"no network 'resnet81'.*a run's folder.*close are.*resnet18"),
        ("mnist_pared", None, r"no network 'mnist_pared'.*close are mnist_paired"),
        ("squeezenet1_1", "BEST", r"'squeezenet1_1' with weights 'BEST'.*IMAGENET1K_V1"),
        ("none.safetensors", None, r"none\.json: there is no such file"),
        ("none.ckpt", None, r"config\.yaml: there is no such file.* the name of their network"),
        ("./theirs.pth", None, r"a file of weights is given with the name of its network"),
        ("theirs.pth.tar", None, r"a file of weights is given with the name of its network"),
    ],
)
def test_unknown_names_are_told_what_there_is(name, weights, message):
    with pytest.raises(UnknownNameError, match=message):
        load(name, weights)


def test_a_run_without_its_version_is_told_the_newest(run_folder):
    run = run_folder.parent
    told = f"no network '{run}'; give a version of this run, such as {{}}$"
    with pytest.raises(UnknownNameError, match=told.format(run_folder)):
        load(str(run))
    for version in ("version_9", "version_10"):
        (run / version).mkdir()
        (run / version / "config.yaml").touch()
    (run / "version_11").mkdir()  # has no config
    with pytest.raises(UnknownNameError, match=told.format(run / "version_10")):
        load(str(run))
    with pytest.raises(UnknownNameError, match="give a shipped one"):
        load(str(run.parent))


@pytest.mark.torture(
    "a folder `squeezenet1_1` where dmn runs, asked for by that name",
    "torchvision's network is taken; the folder is ./squeezenet1_1",
)
def test_a_bare_name_is_of_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("squeezenet1_1", "mine"):
        Path(name).mkdir()
        Path(name, "config.yaml").write_text("run: {name: strange}\n")
    assert load("squeezenet1_1").card["weights"] == "random"
    with pytest.raises(CheckpointError, match="no run's"):
        load("./squeezenet1_1")
    with pytest.raises(UnknownNameError, match=r"no network 'mine'.*; write \./mine for"):
        load("mine")


@pytest.mark.parametrize(("name", "index"), [("7", 7), ("0", 0)])
def test_a_class_is_found_by_its_name(name, index):
    network = load("mnist_paired")
    assert network.index(name) == index
    assert network.label(index) == name
    with pytest.raises(UnknownNameError, match="no class 'seven'; there are 0, 1, 2 and others"):
        network.index("seven")
    with pytest.raises(UnknownNameError, match="names of classes are not known: give an index"):
        replace(network, classes=()).index(name)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage_byte, truncate, empty])
def test_damaged_weights_are_refused_by_their_hash(harm, saved):
    harm(saved)
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: damaged"):
        load(str(saved))


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
    with pytest.raises(CheckpointError, match=r"tiny\.(safetensors|json): "):
        load(str(saved))


@pytest.mark.parametrize("text", ["[]", "1", "null", "\x00", ""])
def test_cards_and_configurations_that_are_none_are_refused(text, saved, run_folder):
    saved.with_suffix(".json").write_text(text)
    (run_folder / "config.yaml").write_text(text)
    for name in (saved, run_folder):
        with pytest.raises(CheckpointError, match=r"(tiny\.json|config\.yaml): "):
            load(str(name))


def test_a_configuration_of_something_else_is_refused(run_folder):
    (run_folder / "config.yaml").write_text("model: {net: 1}\n")
    with pytest.raises(CheckpointError, match=r"config\.yaml: no run's"):
        load(str(run_folder))
    (run_folder / "config.yaml").unlink()
    with pytest.raises(UnknownNameError, match="no network"):
        load(str(run_folder))


@pytest.mark.parametrize(
    "path", ["os.system", "dmn.hub.load", "torch.nn.Linear", "dmn.models.difference.explain"]
)
def test_only_networks_of_dmn_are_built(path, saved, run_folder):
    """However deep they are named; nothing else is imported, let alone called."""
    change(saved.with_suffix(".json"), "dmn.models.MonotoneConvNet", path)
    change(run_folder / "config.yaml", "dmn.models.MonotoneConvNet", path)
    for name in (saved, run_folder):
        with pytest.raises(UnknownNameError, match=rf"'{path}' is not built, only dmn\.models"):
            load(str(name))


class _Evil:
    def __reduce__(self):
        return (open, ("evil", "w"))


def test_checkpoints_execute_nothing(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, run_folder / "checkpoints" / "best.ckpt")
    with pytest.raises(CheckpointError, match=r"best\.ckpt: not a file of weights"):
        load(str(run_folder))
    assert not (tmp_path / "evil").exists()
    (run_folder / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"best\.ckpt: there is no such file"):
        load(str(run_folder))


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
    x = preprocess(size, mean, std, Image.fromarray(pixels))
    assert x.shape == size
    assert x.dtype == torch.float32
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(x, preprocess(size, mean, std, tensor))
    assert torch.allclose(x, preprocess(size, mean, std, tensor / 255))
    plain = preprocess(size, None, None, tensor)
    assert torch.allclose(x, (plain - 0.2) / 0.5, atol=1e-6)
    assert 0 <= plain.min() <= plain.max() <= 1 + 1e-6


def test_pictures_are_grey_as_pillow_has_it_and_cut_to_their_centre():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(pixels)
    x = preprocess((1, 8, 8), None, None, picture)
    assert np.abs(255 * x[0].numpy() - np.asarray(picture.convert("L"))).max() < 1
    same = preprocess((3, 8, 8), None, None, picture)
    assert torch.equal((255 * same).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(preprocess(None, None, None, picture), same)
    wide = torch.zeros(1, 8, 24)
    wide[..., 8:16] = 1
    assert torch.equal(preprocess((3, 8, 8), None, None, wide), torch.ones(3, 8, 8))


def test_cards_can_be_read_by_people(saved):
    card = json.loads(saved.with_suffix(".json").read_text())
    assert list(card)[:2] == ["name", "net"]
    assert card["name"] == "tiny"
    assert card["data"] == DATA


def with_card(saved, change):
    """Change a card, and take its hash of the weights along."""
    path = saved.with_suffix(".json")
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    return str(saved)


def side(card):
    return card["net"]["init_args"]["g"]["init_args"]


CARDS = {  # what is changed, how, and what is said
    "net a text": (lambda card: card.update(net="dmn.models.PlainCNN"), r"'net' must be"),
    "net a list": (lambda card: card.update(net=[]), r"'net' must be"),
    "net without class": (lambda card: card.update(net={"a": 1}), "does not fit"),
    "classes a number": (lambda card: card.update(classes=3), r"'classes' must be a list of names"),
    "classes numbers": (lambda card: card.update(classes=[1, 2, 3]), r"'classes' must be"),
    "a negative size": (lambda card: card.update(size=[1, -8, 8]), r"'size' must be"),
    "a size of 10^9": (lambda card: card.update(size=[1, 10**9, 10**9]), r"'size' must be"),
    "size a text": (lambda card: card.update(size="abc"), r"'size' must be"),
    "mean of two channels": (lambda card: card.update(mean=[0.5, 0.5]), r"'mean' must be of 1"),
    "mean infinite": (lambda card: card.update(mean=[float("inf")]), r"'mean' must be"),
    "std zero": (lambda card: card.update(std=[0]), r"'std' must be a list of positive"),
    "std lost": (lambda card: card.pop("std"), r"'std' must be"),
    "sha256 lost": (lambda card: card.pop("sha256"), "damaged, by the hash on its card"),
    "10^9 channels": (lambda card: side(card).update(widths=[10**9, 6]), "far larger|not fit"),
    "20,000 channels": (lambda card: side(card).update(widths=[20000, 20000]), "far larger"),
    "10^12 classes": (lambda card: side(card).update(num_classes=10**12), "far larger|not fit"),
    "10^30 classes": (lambda card: side(card).update(num_classes=10**30), "does not fit"),
    "10^9 layers": (lambda card: side(card).update(units=10**9), "far larger"),
    "channels a text": (lambda card: side(card).update(widths="abc"), "does not fit"),
    "no channels": (lambda card: side(card).update(widths=[0, 6]), "does not fit"),
}


@pytest.mark.parametrize("done", CARDS)
@pytest.mark.torture(
    "a network's card is tampered with: {done}", "refused by name before it is built"
)
def test_cards_that_were_tampered_with_are_refused(done, saved, happened):
    change, told = CARDS[done]
    with pytest.raises(DmnError, match=rf"tiny\.(json|safetensors): .*({told})") as caught:
        load(with_card(saved, change))
    happened(str(caught.value).replace(str(saved.parent), ""))


LAUGHS = "a0: &a0 {x: y}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
CONFIGURATIONS = {
    "a billion laughs": LAUGHS.encode(),
    "a tag of Python's": b"!!python/object/apply:os.mkdir [ran]",
    "nested 10^4 deep": b"[" * 10**4,
    "another encoding": "seed_everything: é".encode("utf-16-be"),
    "an impossible date": b"seed_everything: 2024-99-99",
    "an empty truth": b"seed_everything: !!bool x",
    "10^12 classes": yaml.safe_dump(
        {"data": DATA, "model": {"net": CNN, "num_classes": 10**12}, "run": {"name": "mine"}}
    ).encode(),
}


@pytest.mark.parametrize("done", CONFIGURATIONS)
@pytest.mark.torture("a run's config.yaml holds {done}", "refused by name, nothing executed")
def test_configurations_that_were_tampered_with_are_refused(
    done, run_folder, tmp_path, monkeypatch, happened
):
    monkeypatch.chdir(tmp_path)
    (run_folder / "config.yaml").write_bytes(CONFIGURATIONS[done])
    with pytest.raises(CheckpointError, match=r"config\.yaml: ") as caught:
        load(str(run_folder))
    assert not (tmp_path / "ran").exists()
    happened(str(caught.value).replace(str(tmp_path), ""))


def test_a_card_nested_deeply_or_unreadable_is_refused(saved, monkeypatch):
    saved.with_suffix(".json").write_text("[" * 10**5)
    with pytest.raises(CheckpointError, match=r"tiny\.json: cannot be read: .*recursion"):
        load(str(saved))

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(CheckpointError, match=r"tiny\.json: cannot be read: Permission"):
        load(str(saved))


@pytest.mark.parametrize("name", ["x" * 5000, "\0", "", ".", "/"])
def test_names_that_no_file_can_have_are_unknown(name):
    with pytest.raises(UnknownNameError, match="no network"):
        load(name)


def test_checkpoints_of_a_failed_training_are_refused(run_folder):
    path = run_folder / "checkpoints" / "best.ckpt"
    held = torch.load(path, weights_only=True)
    key = next(iter(held["state_dict"]))
    held["state_dict"][key].fill_(torch.nan)
    torch.save(held, path)
    with pytest.raises(CheckpointError, match=rf"best\.ckpt: not finite: {key}"):
        load(str(run_folder))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.mark.torture("parts of a card are replaced by any others", "refused by name, or it works")
def test_arbitrary_cards_are_refused_or_work(saved, full, happened):
    path = saved.with_suffix(".json")
    honest, counts = path.read_text(), {"refused": 0, "loaded": 0}

    @settings(max_examples=300 if full else 15, deadline=None, derandomize=not full, database=None)
    @given(st.data(), VALUES)
    def check(data, value):
        card = told = json.loads(honest)
        while isinstance(told, dict) and told:  # go down to any part of it
            key = data.draw(st.sampled_from(sorted(told)))
            if not data.draw(st.booleans()) or not isinstance(told[key], dict):
                told[key] = value
                break
            told = told[key]
        path.write_text(json.dumps(card))
        try:
            loaded = load(str(saved))
        except DmnError as error:
            counts["refused"] += 1
            assert "tiny." in str(error)  # noqa: PT017
        else:
            counts["loaded"] += 1
            assert all(each.isfinite().all() for each in loaded.model.state_dict().values())

    check()
    assert all(counts.values())
    happened(f"{counts['refused']} refused by name, {counts['loaded']} loaded")


@pytest.mark.torture(
    "a card tells of images of {size}", "a picture is cropped first, and takes little memory"
)
@pytest.mark.parametrize("size", [(3, 400, 40000), (3, 40000, 400), (1, 60000, 1000)])
@pytest.mark.parametrize("sides", effort.slow_except({(90, 9)}, [(500, 400), (1, 1), (90, 9)]))
def test_no_picture_is_scaled_without_bounds(size, sides, monkeypatch):
    made = []
    scale = torch.nn.functional.interpolate
    monkeypatch.setattr(
        "dmn.hub.preprocess.F.interpolate",
        lambda x, to, **how: made.append(to) or scale(x, to, **how),
    )
    assert preprocess(size, None, None, Image.new("RGB", sides, "red")).shape == size
    assert size[0] * made[0][0] * made[0][1] <= LARGEST_IMAGE


@given(st.integers(20, 60), st.integers(20, 60), st.integers(8, 16), st.integers(8, 16))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_cropping_first_gives_about_the_same(height, width, high, wide):
    rows, columns = (torch.linspace(0, 1, side) for side in (height, width))
    x = torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)])
    one = crop(x, high, wide)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmn.hub.preprocess.LARGEST_IMAGE", 0)
        other = crop(x, high, wide)
    assert (one - other).abs().max() < 0.1  # of a picture that goes from 0 to 1
