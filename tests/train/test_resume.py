"""Going on with a run: as what it was, in its folder."""

import shlex
from pathlib import Path

import pytest
import torch
import yaml
from train_problem import make_task

from dmn.cli.main import main
from dmn.errors import CheckpointError, OptionError
from dmn.train import Trainer, check_same_run
from dmn.train.resume import CHANGEABLE

FIT = shlex.split(
    "fit --config debug --quantus.every_n_epochs 0 --heatmaps.every_n_epochs 0 "
    "--model.lr_scheduler null"
)
LAST = "runs/debug/version_0/checkpoints/last.ckpt"
OPTIONS = {
    "seed_everything": 0,
    "data": {"class_path": "D", "init_args": {"fold": 0, "num_workers": 0, "root": "data"}},
    "model": {
        "net": {"class_path": "N", "init_args": {"widths": [4, 4]}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
        "explainers": {"a": {"class_path": "E"}},
        "calibration": False,
        "channels_last": False,
        "terms": None,
    },
    "unfreeze": {"head_epochs": 0},
    "trainer": {"max_epochs": 3},
    "run": {"online": False},
}


def leaves(options, key=""):
    if not isinstance(options, dict):
        return [key]
    return [leaf for name in options for leaf in leaves(options[name], f"{key}.{name}".strip("."))]


def changed(key, value):
    options = yaml.safe_load(yaml.safe_dump(OPTIONS))
    *inside, last = key.split(".")
    place = options
    for name in inside:
        place = place[name]
    place[last] = value
    return yaml.safe_dump(options)


@pytest.mark.parametrize("key", leaves(OPTIONS))
@pytest.mark.parametrize("value", ["another", None, {"class_path": "other"}])
def test_what_makes_a_run_has_to_be_as_it_was(key, value, tmp_path):
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    config = changed(key, value)
    check_same_run(checkpoint, config)  # nothing is known of it
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(OPTIONS))
    free = key.startswith(("trainer", "run", *CHANGEABLE)) or (
        key.endswith("terms") and value is None
    )
    if free:
        check_same_run(checkpoint, config)
        return
    with pytest.raises(OptionError) as told:
        check_same_run(checkpoint, config)
    assert str(told.value).startswith(f"{key} is ")
    assert f"in {tmp_path / 'config.yaml'}; give it as it was, or start anew" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module")
def run_of_debug(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(FIT)
    return folder


CHANGES = {
    "--data.fold 1": "data.init_args.fold is 1, but was 0 in ",
    "--model.optimizer torch.optim.SGD --model.optimizer.init_args.lr 0.1": (
        'model.optimizer.class_path is "torch.optim.SGD", but was "torch.optim.Adam" in '
    ),
    "--model.net.init_args.g.init_args.widths [4,6]": "is [4, 6], but was [4, 4] in ",
    "--model.net dmn.models.PlainCNN": 'is "dmn.models.PlainCNN", but was ',
    "--seed_everything 3": "seed_everything is 3, but was 0 in ",
}


def files():
    """What files hold, except for one that Weights & Biases' process writes while it ends."""
    found = [path for path in Path().rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in found if path.name != "debug-core.log"}


@pytest.mark.torture("dmn fit --ckpt_path last {change}", "refused, the run's files as they were")
@pytest.mark.parametrize("change", CHANGES)
def test_another_run_is_refused_and_left_as_it_was(change, run_of_debug, monkeypatch, happened):
    monkeypatch.chdir(run_of_debug)
    before = files()
    with pytest.raises(SystemExit) as stopped:
        main([*FIT, *shlex.split(change), "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    happened(str(stopped.value))
    assert CHANGES[change] in str(stopped.value)
    assert files() == before


@pytest.mark.torture("a checkpoint that cannot be restored is resumed", "config.yaml is as it was")
def test_the_config_is_written_once_all_is_restored(run_of_debug, monkeypatch):
    monkeypatch.chdir(run_of_debug)
    config = Path("runs/debug/version_0/config.yaml")
    before, genuine = config.read_text(), Path(LAST).read_bytes()
    state = torch.load(LAST, weights_only=True)
    state["state_dict"].popitem()
    torch.save(state, LAST)
    more = ["--ckpt_path", "last", "--trainer.max_epochs", "2"]
    with pytest.raises(SystemExit, match="dmn: the checkpoint is of another network: 1 missing"):
        main([*FIT, *more])
    assert config.read_text() == before
    Path(LAST).write_bytes(genuine)
    main([*FIT, *more])
    assert yaml.safe_load(config.read_text())["trainer"]["max_epochs"] == 2
    assert torch.load(LAST, weights_only=True)["epoch"] == 1


@pytest.mark.torture(
    "dmn fit --ckpt_path of a stranger, whose file names other files, folders and options",
    "nothing changes outside the runs; the options are the config's",
)
def test_a_strangers_checkpoint_changes_nothing_beside_the_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(FIT)
    for name in ("one", "two"):
        Path(name).mkdir()
        Path(name, "a.txt").write_text("keep")
    state = torch.load(LAST, weights_only=True)
    (own,) = (each for key, each in state["callbacks"].items() if "EpochCheckpoint" in key)
    own["last_model_path"] = own["dirpath"] + "/../../../../one"
    own["kth_best_model_path"] = f"local://{tmp_path / 'two'}"
    own["best_k_models"] = {own["kth_best_model_path"]: torch.tensor(-1.0)}
    state["hyper_parameters"] = {"explainers": {}, "label_smoothing": 0.5}
    torch.save(state, LAST)
    main([*FIT, "--ckpt_path", LAST, "--trainer.max_epochs", "2"])
    assert [Path(name, "a.txt").read_text() for name in ("one", "two")] == ["keep"] * 2
    assert sorted(path.name for path in Path().iterdir()) == ["one", "runs", "two"]
    config = yaml.safe_load(Path("runs/debug/version_0/config.yaml").read_text())
    assert config["model"]["label_smoothing"] == 0
    assert torch.load(LAST, weights_only=True)["epoch"] == 1


def test_another_optimizers_state_is_refused(data, tmp_path):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"logger": False, "enable_checkpointing": False}
    task = make_task(explainers={})
    task._lr_scheduler = None
    trainer = Trainer(max_epochs=1, **quiet)
    trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    task._optimizer = torch.optim.SGD
    with pytest.raises(CheckpointError, match="of another optimizer than SGD: it has no momentum"):
        Trainer(max_epochs=2, **quiet).fit(task, data, ckpt_path=str(tmp_path / "it.ckpt"))
