"""Classes, channels and size follow from the data, whatever the configuration says of them."""

import shlex

import effort
import pytest
import torch
from photos import SHORT, make_photos

from dmn.cli.main import main
from dmn.cli.training import DmnCLI
from dmn.errors import OptionError

OWN = "--data dmn.data.Folder --data.root photos --data.num_workers 0 --data.batch_size 4 "
NETWORKS = {
    "of folder": "--config folder",
    "of mnist": f"--config mnist {OWN}",
    "of letters": f"--config letters {OWN}",
    "of scenes_front": f"--config scenes_front {OWN}",
    "a plain CNN": "--config folder --model.net dmn.models.PlainCNN",
    "a residual network": "--config folder --model.net dmn.models.ResNet18 --model.net.width 8",
    "with inverted images": f"--config mnist_inverted {OWN}",
}
QUICK = {"of folder", "of mnist", "a plain CNN"}  # images seen through a front, paired, as they are


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def built(folder, monkeypatch):
    """Return what a command line builds in a folder, without running it."""
    kept = []
    monkeypatch.setattr(DmnCLI, "_run_subcommand", lambda cli, _: kept.append(cli))

    def build(*lines):
        main(["fit", *[word for line in lines for word in shlex.split(line)]])
        return kept.pop()

    return build


def said(text):
    return [line for line in text.splitlines() if "set by the data" in line]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("network", effort.slow_except(QUICK, NETWORKS))
def test_a_network_has_the_classes_and_channels_of_the_photos(network, mode, folder, built):
    names = [f"kind {number:02}" for number in range({"L": 2, "RGB": 12}[mode])]
    make_photos(folder / "photos", names, mode=mode)
    cli = built(NETWORKS[network])
    cli.datamodule.setup("fit")
    images = cli.datamodule.validation.__getitems__([0, 1]).image
    assert images.shape == (2, {"L": 1, "RGB": 3}[mode], 36, 36)
    assert cli.model(images).shape == (2, len(names))
    assert list(cli.model.classes) == names
    assert cli.model.num_classes == len(names)


WRONG = {
    "all of them": "--model.num_classes 10",
    "the task's": "--model.num_classes 7 --model.net.g.num_classes 3 --model.net.h.num_classes 3",
    "one network's": "--model.num_classes 3 --model.net.g.num_classes 3",
    "two that disagree": "--model.net.g.num_classes 4 --model.net.h.num_classes 5",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("count", [2, 12])
def test_a_wrong_number_of_classes_is_set_right_and_told_in_one_line(
    wrong, count, folder, built, capsys
):
    make_photos(folder / "photos", [f"kind {number}" for number in range(count)])
    cli = built("--config folder", WRONG[wrong])
    assert cli.model(torch.rand(1, 3, 36, 36)).shape == (1, count)
    (line,) = said(capsys.readouterr().err)
    assert f"num_classes {count}" in line


def test_what_already_fits_is_not_told(folder, built, capsys):
    make_photos(folder / "photos")
    sides = "--model.net.g.num_classes 3 --model.net.h.num_classes 3"
    built("--config folder --model.num_classes 3", sides)
    assert not said(capsys.readouterr().err)


def test_other_data_name_the_classes_and_change_no_network(built, capsys):
    cli = built("--config mnist")
    assert cli.model.classes == tuple("0123456789")
    cli = built("--config letters")
    assert len(cli.model.classes) == 10
    assert set(cli.model.classes).isdisjoint("0123456789")
    assert not said(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "size", "channels"),
    [
        ("--data.size 20", 20, 3),
        ("--data.channels 1", 36, 1),
        ("--data.size 50 --data.channels 1", 50, 1),
    ],
)
def test_a_size_or_channels_that_are_asked_for_are_kept(line, size, channels, folder, built):
    make_photos(folder / "photos")
    cli = built("--config folder", line)
    options = cli.config["fit"]["data"]["init_args"]
    assert (options["size"], options["channels"]) == (size, channels)
    cli.datamodule.setup("fit")
    images = cli.datamodule.test.__getitems__([0]).image
    assert images.shape[1:] == (channels, size, size)
    assert cli.model(images).shape == (1, 3)


def only(folder, names):
    make_photos(folder / "photos", names)


REFUSED = {
    "no folder": (lambda folder: None, "", "/photos: there is no such folder"),
    "no folder for a class": (lambda folder: only(folder, [""]), "", "has no classes"),
    "one class": (lambda folder: only(folder, ["cat"]), "", "the data has one class, cat"),
    "the folder above": (lambda folder: only(folder / "photos", ["a", "b"]), "", "data.root"),
    "an empty class": (
        lambda folder: (only(folder, "ab"), (folder / "photos" / "c").mkdir()),
        "",
        "no image in photos/c",
    ),
    "images too small for the network": (
        lambda folder: only(folder, "ab"),
        "--data.size 6",
        "the network fails at images of size 3x6x6",
    ),
    "a network without num_classes": (
        lambda folder: only(folder, "ab"),
        "--model.net torch.nn.Linear --model.net.in_features 36 --model.net.out_features 5 "
        "--model.explainers null",
        "not one logit for each of 2 classes",
    ),
    "explainers of pairs only": (
        lambda folder: only(folder, "ab"),
        f"--config scenes {OWN} --model.net dmn.models.PlainCNN",
        "PlainCNN is no such difference",
    ),
}


@pytest.mark.torture("dmn fit with {kind}", "refused in one line, before any step")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_told_in_one_line(kind, folder, happened):
    prepare, options, message = REFUSED[kind]
    prepare(folder)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "folder", *shlex.split(options), *SHORT])
    told = str(stopped.value.code)
    assert told.startswith("dmn: ")
    assert "\n" not in told
    assert message in told
    assert not list(folder.glob("runs/**/*.ckpt"))
    happened(told.replace(str(folder), ""))


@pytest.mark.parametrize("explainer", ["SplitCAM", "SplitGrad", "SplitLRP"])
def test_explainers_of_pairs_refuse_other_networks(explainer):
    import dmn.explain
    from dmn.models import PlainCNN

    with pytest.raises(OptionError, match=rf"{explainer} explains g - h.*ResplitExplainer"):
        getattr(dmn.explain, explainer)(PlainCNN())
