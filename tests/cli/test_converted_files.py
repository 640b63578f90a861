"""What `dmn convert` writes is taken by every other command, as the network it was made of."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from skimage import data as photographs

from dmn.cli.main import main
from dmn.compare.plan import Source, entries
from dmn.errors import CheckpointError, OptionError, UnknownNameError, UnsupportedError
from dmn.explain import list_methods
from dmn.hub import load, save_converted, save_network
from dmn.io.resources import CONFIGS
from dmn.split import SplitModel, split
from dmn.train import Distillation, initialise

FORMS = ("split", "canonized", "both")
NAMES = {"scenes_resnet18": 10, "squeezenet1_1": 5}
METHODS = ("SplitCAM", "SplitLRP", "Gradient", "GradCAM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Convert a shipped network and one of torchvision's to every form, and save a photograph."""
    folder = tmp_path_factory.mktemp("converted")
    Image.fromarray(photographs.astronaut()).save(folder / "astronaut.png")
    torch.manual_seed(0)
    model = load("squeezenet1_1", num_classes=5).model
    torch.save(model.state_dict(), folder / "squeezenet.pth")
    for name in NAMES:
        weights = ["--weights", str(folder / "squeezenet.pth")] if "squeeze" in name else []
        for form in FORMS:
            out = ["--out", str(folder / f"{name}_{form}.safetensors")]
            main(["convert", name, "--form", form, *weights, *out])
    return folder


def original(name, folder):
    return load(name, folder / "squeezenet.pth" if "squeeze" in name else None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_the_whole_network(name, form, folder):
    first, second = original(name, folder), load(folder / f"{name}_{form}.safetensors")
    assert second.source == "converted"
    assert second.is_pair == second.is_split == (form != "canonized")
    assert isinstance(second.model, SplitModel) == second.is_pair
    assert not any(parameter.requires_grad for parameter in second.model.parameters())
    for known in ("classes", "size", "mean", "std"):
        assert getattr(second, known) == getattr(first, known), known
    picture = Image.open(folder / "astronaut.png")
    x = first.transform(picture)
    assert torch.equal(second.transform(picture), x)
    assert torch.equal(second.restore(x[None]), first.restore(x[None]))
    with torch.no_grad():
        logits, expected = second.model(x[None]), first.model(x[None])
    assert torch.allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(logits, expected) == (form == "split") or "squeeze" in name  # no BatchNorm
    assert torch.equal(second.predict(x[None]), first.predict(x[None]))


def explained(folder, *options):
    out = folder / "explained.png"
    main(["explain", str(folder / "astronaut.png"), "--out", str(out), *options])
    return np.asarray(Image.open(out))


@pytest.mark.parametrize("name", NAMES)
def test_a_split_file_is_explained_as_its_original(name, folder, capsys):
    """Pixel for pixel, also where it is read at the last stage, a block that the file has not."""
    own = ["--weights", str(folder / "squeezenet.pth")] if "squeeze" in name else []
    one = explained(folder, "--model", name, *own, "--method", *METHODS)
    told = capsys.readouterr().out.splitlines()[0]
    other = explained(
        folder, "--model", str(folder / f"{name}_split.safetensors"), "--method", *METHODS
    )
    assert capsys.readouterr().out.splitlines()[0] == told
    assert np.array_equal(one, other)


@pytest.mark.parametrize("form", ["canonized", "both"])
@pytest.mark.parametrize("name", NAMES)
def test_other_forms_are_explained(name, form, folder, capsys):
    model = str(folder / f"{name}_{form}.safetensors")
    explained(folder, "--model", model, "--method", *METHODS)
    assert "SplitCAM g, SplitLRP g-h, Gradient, GradCAM" in capsys.readouterr().out


def test_files_are_compared(folder, tmp_path, monkeypatch):
    """A split file is scored as its original: post hoc, not as a network that was trained so."""
    monkeypatch.chdir(tmp_path)
    methods = {"SplitLRP": {"stream": "g"}, "Gradient": None}
    names = {"first": "scenes_resnet18"} | {
        form: str(folder / f"scenes_resnet18_{form}.safetensors") for form in FORMS[:2]
    }
    config = {
        "run": {"name": "files"},
        "networks": {label: {"name": name} for label, name in names.items()},
        "data": {"class_path": "dmn.data.Scenes"},
        "metrics": ["PointingGame"],
        "choose_by": ["PointingGame"],
        "budget": {"validation": 2, "test": 3, "expensive": 2},
        "gallery": 1,
        "device": "cpu",
        "methods": {label: methods for label in names},
    }
    Path("files.yaml").write_text(yaml.safe_dump(config))
    main(["compare", "--config", "files.yaml"])
    scores = pd.read_parquet("runs/compare/files/scores.parquet")
    tests = scores[(scores["split"] == "test") & scores["method"].isin(methods)]
    values = {
        label: rows.sort_values(["method", "image"])["value"].tolist()
        for label, rows in tests.groupby("network")
    }
    assert len(values["first"]) == 6
    assert not any(np.isnan(values["first"]))
    assert values["split"] == values["first"]
    assert len(values["canonized"]) == 6
    assert set(tests["kind"]) == {"post-hoc"}


def test_a_split_file_is_of_the_kind_of_its_original(folder):
    networks = {"a": Source(str(folder / "squeezenet1_1_split.safetensors")).load("cpu")}
    made = entries(
        {"a": {spec.name: {} for spec in list_methods("split") if not spec.needs_layer}},
        networks,
        1,
    )
    assert {entry.kind for entry in made} == {"post-hoc", "control"}
    x = torch.rand(1, 3, 64, 64)
    assert made[0].explainer(networks["a"], {}, x)(x, 0).shape == (1, 1, 64, 64)
    assert networks["a"].as_pair() is networks["a"].model


def test_training_starts_from_a_split_file_and_not_from_a_canonized_one(folder):
    first = load("scenes_resnet18")
    net = type(first.model)(**first.card["net"]["init_args"])
    report = initialise(net, folder / "scenes_resnet18_split.safetensors")
    state = first.model.state_dict()
    assert not report.unexpected + report.replaced
    assert all("num_batches_tracked" in key for key in report.missing)
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in report.loaded)
    with pytest.raises(CheckpointError, match=r"canonized\.safetensors: canonized, .* split form"):
        initialise(net, folder / "scenes_resnet18_canonized.safetensors")


def test_finetuning_starts_from_a_split_file_and_a_teacher_may_be_one(
    folder, tmp_path, monkeypatch, caplog
):
    """By the command line: a small network of one's own is trained, converted and trained on."""
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.num_sanity_val_steps", "0", "--quantus.every_n_epochs", "0"]
    quick += ["--heatmaps.every_n_epochs", "0", "--trainer.max_epochs", "1"]
    config = yaml.safe_load((CONFIGS / "debug.yaml").read_text())
    config["model"]["net"] = {
        "class_path": "dmn.models.PlainCNN",
        "init_args": {"in_channels": 1, "widths": [4, 4], "grid": 2, "num_classes": 10},
    }
    config["model"].pop("explainers", None)
    Path("own.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "own.yaml", *quick])
    (run,) = Path("runs").rglob("version_0")
    main(["convert", f"./{run}"])
    path = Path(f"{run}_split.safetensors")
    assert load(path).size == (1, 28, 28)
    still = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0"]
    still += ["--model.lr_scheduler", "null"]
    main(["finetune", "--config", "own.yaml", "--init_from", str(path), *still, *quick])
    first, second = (
        torch.load(run.with_name(f"version_{k}") / "checkpoints/last.ckpt", weights_only=True)
        for k in (0, 1)
    )
    assert torch.equal(
        first["state_dict"]["net.head.weight"], second["state_dict"]["net.head.weight"]
    )
    x = torch.rand(2, 1, 28, 28)
    taught = Distillation(str(path)).teacher.model(x)
    assert torch.equal(taught, load(run / "checkpoints/best.ckpt").model(x))


@pytest.mark.torture("dmn convert of a file that is converted", "refused in one line")
def test_a_converted_file_is_not_converted_again(folder, happened):
    for form in FORMS:
        with pytest.raises(
            SystemExit, match="is converted already; convert the network"
        ) as stopped:
            main(["convert", str(folder / f"squeezenet1_1_{form}.safetensors")])
        assert "\n" not in str(stopped.value)
    happened(str(stopped.value))
    network = load(folder / "squeezenet1_1_canonized.safetensors")
    with pytest.raises(UnsupportedError, match="is converted already"):
        save_converted(split(network.model), folder / "again.safetensors", original=network)
    with pytest.raises(UnknownNameError, match=r"gets no card; .*save_converted"):
        save_network(network, folder)


def test_options_of_other_kinds_of_networks_are_refused(folder):
    path = folder / "squeezenet1_1_split.safetensors"
    for options, told in (
        # networks of one's own take it too, since they have names
        (
            {"num_classes": 3},
            r"num_classes is for classifiers of torchvision, timm: and hf:, and networks of your",
        ),
        ({"num_classes": 3, "model": torch.nn.Identity()}, "num_classes is for"),
    ):
        with pytest.raises(OptionError, match=told):
            load(path, **options)
    with pytest.raises(OptionError, match=r"model is for files of save_converted only"):
        load("squeezenet1_1", model=torch.nn.Identity())
    with pytest.raises(OptionError, match=r"num_classes is 0; give at least 1"):
        load("squeezenet1_1", num_classes=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_branches_on_shapes_comes_back(form, tmp_path, monkeypatch):
    """Its file knows the size of its images, at which it is written as a graph again."""
    monkeypatch.chdir(tmp_path)
    Path("branching.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)\n"
        "        self.head = nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        if x.shape[-1] < 12:\n"
        "            x = nn.functional.interpolate(x, scale_factor=2.0)\n"
        "        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    weights = ["--weights", "net.pth", "--size", "3", "8", "8"]
    original = load("branching:Net").model
    torch.save(original.state_dict(), "net.pth")
    main(["convert", "branching:Net", *weights, "--form", form, "--out", "n.safetensors"])
    again = load("n.safetensors", model=load("branching:Net").model)
    x = torch.rand(2, 3, 8, 8)
    assert torch.allclose(again.model(x), original(x), atol=1e-6)
    assert again.size == (3, 8, 8)
