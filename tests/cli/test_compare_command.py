"""`dmn compare` as its users meet it, and the configs that are shipped for it."""

import inspect
import json
import re
import shlex
import sys

import pandas as pd
import pytest
import torch
import yaml

from dmn.cli.main import main
from dmn.compare import entries
from dmn.compare.suite import Suite
from dmn.data import MNIST
from dmn.evaluate import METRICS
from dmn.evaluate.truth import TRUTH
from dmn.explain import find_method, list_methods
from dmn.hub import Network, load, save_network
from dmn.io.resources import CONFIGS, checkpoint_names, config_names
from dmn.models import DifferenceOfMonotone, MonotoneConvNet, PlainCNN

SHIPPED = config_names("compare")
ROLLOUT = {"AttentionRollout", "GradientAttentionRollout"}
FOR_TIME = {"SplitGrad", "GradientSHAP", "SmoothGrad", "Occlusion", "FeatureAblation", "GradCAM++"}
NO_RULE = {"DeepLift", "ExcitationBackprop", "GuidedBackprop"}  # for layer norm, for GELU


def save(net, name, folder, init_args):
    """Train a little, and save weights and card."""
    digits = MNIST(batch_size=64)
    digits.setup("fit")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _, (x, y, _) in zip(range(30), digits.train_dataloader(), strict=False):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    card = {"net": {"class_path": f"dmn.models.{type(net).__name__}", "init_args": init_args}}
    names = tuple(str(digit) for digit in range(10))
    network = Network(name, net.eval(), names, (1, 28, 28), None, None, torch.as_tensor, card)
    return str(save_network(network, folder))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Train two small networks for some steps, and compare them."""
    folder = tmp_path_factory.mktemp("compare")
    torch.manual_seed(0)
    side = {"in_channels": 2, "widths": [4, 4], "units": 1, "grid": 2}
    pair = DifferenceOfMonotone(*(MonotoneConvNet(**side) for _ in "gh"))
    nested = {"class_path": "dmn.models.MonotoneConvNet", "init_args": side}
    own = save(pair, "own", folder, {"g": nested, "h": nested})
    plain = {"in_channels": 1, "widths": [4, 8], "grid": 2}
    cnn = save(PlainCNN(**plain), "cnn", folder, plain)
    path = folder / "small.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "run": {"name": "small", "root": str(folder / "runs")},
                "title": "Two small networks",
                "networks": {"own": {"name": own}, "cnn": {"name": cnn}},
                "data": {"class_path": "dmn.data.MNIST"},
                "metrics": ["PixelFlipping", "PointingGame", "Sparseness", "Completeness"],
                "budget": {"validation": 2, "test": 3, "expensive": 2},
                "gallery": 2,
                "device": "cpu",
                "methods": {
                    "own": {"SplitCAM": {"layer": ["stem", "stage1_1"], "stream": "g"}},
                    "cnn": {
                        "GradCAM": {"layer": "stage1"},
                        "nowhere": {"method": "GradCAM", "layer": "stage7"},
                    },
                },
            },
            sort_keys=False,
        )
    )
    return path


@pytest.fixture(scope="module")
def folder(config):
    main(["compare", "--config", str(config)])
    return config.parent / "runs/compare/small"


def test_everything_that_is_promised_is_left(folder):
    for left in ("report.html", "report.md", "summary.csv", "cells.csv", "figures/ranks.png"):
        assert (folder / left).is_file(), left
    scores = pd.read_parquet(folder / "scores.parquet")
    assert scores.equals(pd.read_csv(folder / "scores.csv", keep_default_na=False).pipe(as_read))
    cells = pd.read_parquet(folder / "cells.parquet")
    tests = cells[(cells["split"] == "test") & (cells["metric"] != "Explanation")]
    assert len(tests) == (3 + 6) * 4  # with three controls a network
    assert ((tests["n"] > 0) | (tests["reasons"] != "")).all()  # a score or its reason
    missing = tests[tests["method"] == "nowhere"]
    assert missing["reasons"].str.contains("no layer 'stage7'").all()
    chosen = json.loads((folder / "settings.json").read_text())
    assert chosen["SplitCAM (own)"]["layer"] in ("stem", "stage1_1")
    html = (folder / "report.html").read_text()
    assert "Two small networks" in html
    assert "stage7" in html


def as_read(table):
    """Read an empty value as missing, an empty reason as it is, and every digit of a number."""
    return table.assign(value=table["value"].replace("", "nan").astype(float))


def test_the_weights_and_biases_run_holds_tables_pictures_and_charts(folder):
    (media,) = folder.glob("wandb/offline-run-*/files/media")
    left = {
        "table/tables": {"summary", "ranks"},
        "table/bars": {"PixelFlipping", "PointingGame", "Sparseness", "Completeness"},
        "images/figures": {"gallery", "against", "ranks", "curves", "cost", "faithfulness"},
    }
    for place, names in left.items():
        assert names <= {path.name.split("_")[0] for path in (media / place).iterdir()}, place


def test_nothing_is_scored_again(folder, config, capsys, monkeypatch):
    monkeypatch.setattr("dmn.compare.suite.score", None)  # which would be called
    before = pd.read_parquet(folder / "scores.parquet")
    main(["compare", "--config", str(config)])
    assert pd.read_parquet(folder / "scores.parquet").equals(before)
    assert f"see {folder / 'report.html'}" in capsys.readouterr().out


@pytest.mark.slow  # compare/test_processes.py starts several, too
@pytest.mark.torture(
    "`dmn compare --devices 2`",
    "the entries are scored by two processes, each score bit-equal to those of one process",
)
def test_two_processes_score_what_one_does(folder, config, monkeypatch):
    monkeypatch.setattr("dmn.compare.suite.score", None)  # which this process would call
    main(["compare", "--config", str(config), "--run.name=two", "--devices=2"])
    folders = (folder, folder.parent / "two")
    one, two = (pd.read_parquet(each / "scores.parquet") for each in folders)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert one["value"].notna().any()


@pytest.mark.torture(
    "Ctrl-C to a comparison, and the same command again",
    "no traceback; what was scored is not scored again",
)
def test_a_comparison_that_is_interrupted_goes_on(folder, config, monkeypatch, capsys, happened):
    made, measure = [], Suite._measure

    def interrupted(self, *args):
        if len(made) == 9:
            raise KeyboardInterrupt
        made.append(args)
        return measure(self, *args)

    monkeypatch.setattr(Suite, "_measure", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--config", str(config), "--run.name=cut"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err.endswith("\ninterrupted\n")
    monkeypatch.setattr(Suite, "_measure", lambda *args: made.append(args) or measure(*args))
    main(["compare", "--config", str(config), "--run.name=cut"])
    cut, whole = (pd.read_parquet(folder.parent / n / "scores.parquet") for n in ("cut", "small"))
    pd.testing.assert_frame_equal(cut, whole, check_exact=True)
    cells = len(list((folder / "cells").glob("*.json")))
    assert len(made) == cells
    happened(f"{len(made)} cells measured, once each; scores bit-equal")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--methods={other: {Gradient: {}}}", "methods for other, but networks are own, cnn"),
        ("--methods={cnn: {Nope: {}}}", "Nope (cnn): no method 'Nope'; there are SplitCAM"),
        ("--metrics=[Nope]", "no metric Nope; there are PixelFlipping"),
        ("--choose_by=[LinearPattern]", "choose_by: LinearPattern has no validation images"),
        ("--budget.settings=1", "SplitCAM (own): 2 settings, but each method has 1"),
        ("--networks.cnn.name=nope", "no network 'nope'"),
        ("--devices=0", "devices: 0 of cpu: "),
        ("--device=cuda:99", "device is 'cuda:99'; give cpu"),
        ("--device=gpu", "device is 'gpu'; give cpu"),
        ("--gallery=-2", "gallery is -2; give at least 0"),
        ("--seed=-1", "seed is -1; give 0 to 4294967295"),
        ("--networks.cnn.name=resnet18", "cnn takes images of mean (0.485, 0.456, 0.406)"),
    ],
)
def test_mistakes_are_told_in_one_line(config, option, message):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--config", str(config), option])
    assert message in str(stopped.value).replace('"', "")
    assert str(stopped.value).startswith("dmn: ")


@pytest.mark.parametrize("missing", ["pandas", "pyarrow", "jinja2"])
def test_a_missing_library_is_told_before_anything_is_scored(missing, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("dmn.compare")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "dmn.cli.compare", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=rf"{missing}.*pip install 'dmn\[compare\]'"):
        main(["compare", "--config", "scenes"])


def test_help_shows_commands_and_configs(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "dmn compare --config scenes" in out
    assert all(name in out for name in SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_parse_and_their_methods_can_be_made(name, capsys, tmp_path, monkeypatch):
    """Every setting that is searched fits its method, and names layers that its network has."""
    monkeypatch.chdir(tmp_path)
    text = (CONFIGS / "compare" / f"{name}.yaml").read_text()
    for line in re.findall(r"^#   dmn (.+)$", text, re.M):
        if not line.endswith(("\\", "...")):
            with pytest.raises(SystemExit) as stopped:
                main([*shlex.split(line, comments=True), "--print_config"])
            assert stopped.value.code == 0
    config = yaml.safe_load(text)
    assert config["run"]["name"] == name
    assert set(config["metrics"]) | set(config.get("choose_by", [])) <= METRICS.keys()
    x = torch.rand(1, 3, 64, 64)
    for label, source in config["networks"].items():
        networks = {label: load(source["name"])}  # of torchvision's: random weights
        wanted = {label: config["methods"][label]}
        for entry in entries(wanted, networks, config["budget"].get("settings", 12)):
            spec = find_method(entry.method)
            for setting in entry.settings if spec.kind != "control" else ():
                found = {"layer": None} if spec.needs_layer else {}  # on an example, if not named
                inspect.signature(spec.factory).bind(None, **found | setting)
                if "layer" in setting:
                    assert callable(entry.explainer(networks[label], setting, x))


@pytest.mark.parametrize("name", ["scenes", "scenes_vgg16"])
def test_the_scenes_configs_compare_what_they_ought_to(name):
    config = yaml.safe_load((CONFIGS / f"compare/{name}.yaml").read_text())
    methods = {
        (options or {}).get("method", title)
        for titles in config["methods"].values()
        for title, options in titles.items()
    }
    for_transformers = {"AttentionRollout", "GradientAttentionRollout", "AttnLRP"}
    assert methods == {spec.name for spec in list_methods("split", "post-hoc")} - for_transformers
    assert {METRICS[metric].category for metric in config["metrics"]} == {
        spec.category for metric, spec in METRICS.items() if metric not in TRUTH
    }
    assert len(config["metrics"]) >= 8
    assert config["budget"]["test"] >= 100
    assert config["budget"]["expensive"] >= 30
    assert {source["name"] for source in config["networks"].values()} <= set(checkpoint_names())


def test_modern_networks_are_compared_as_the_others_by_all_that_applies_to_them():
    modern, scenes = (
        yaml.safe_load((CONFIGS / f"compare/{name}.yaml").read_text())
        for name in ("scenes_modern", "scenes")
    )
    for key in ("metrics", "choose_by", "data"):
        assert modern[key] == scenes[key]
    assert modern["budget"].keys() == scenes["budget"].keys()  # two networks, and half the images
    assert {source["name"] for source in modern["networks"].values()} <= set(checkpoint_names())
    for label, rollout in (("ViT", True), ("ConvNeXt", False)):
        shared = scenes["methods"]["ResNet"].keys() & modern["methods"][label].keys()
        own = modern["methods"][label].keys() - shared
        assert {title for title in own if "AttnLRP" not in title} == (ROLLOUT if rollout else set())
        left_out = scenes["methods"]["ResNet"].keys() - shared
        assert all("LRP" in title or title in NO_RULE | FOR_TIME for title in left_out)
