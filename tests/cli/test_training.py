"""The `dmn` command as its users meet it."""

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import effort
import pytest
import torch
import yaml
from jsonargparse import Namespace

from dmn.cli.main import main
from dmn.cli.training import LEAST, check_options, find_checkpoint
from dmn.errors import CheckpointError, OptionError
from dmn.nn import assert_monotone
from dmn.tracking import Run
from dmn.train import initialise

FAST = shlex.split("--quantus.every_n_epochs 0 --heatmaps.every_n_epochs 0")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    main(shlex.split(args[0]) + list(args[1:]))


def shell(*args, env=None, **options):
    """Run the installed command in a process of its own."""
    command = [str(Path(sys.executable).with_name("dmn")), *args]
    environment = {**os.environ, "WANDB_SILENT": "true", **(env or {})}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, **options
    )


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.mark.parametrize("args", [[], ["fit"], ["finetune"], ["validate"], ["test"]])
def test_help_reads_like_documentation(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    name = " ".join(["dmn", *(args or ["fit"])])
    assert f"{name} --config mnist" in out
    assert "mnist_inverted" in out
    if args:
        assert len(out[: out.index("options:")].splitlines()) < 20  # no wall of usage
        assert "--quantus.images IMAGES" in out
        assert "Validation images scored per process" in out


def in_this_process(*args, cwd, capsys):
    """Run a command here, as `shell` does in a process of its own."""
    capsys.readouterr()
    main(args)
    return subprocess.CompletedProcess(args, 0, *capsys.readouterr())


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_test_and_finetune_from_another_folder(alone, folder, capsys):
    """The newcomer's path, by the installed command; what follows on the fit is in this process."""
    go_on = shell if alone else partial(in_this_process, capsys=capsys)
    fit = shell("fit", "--config", "debug", cwd=folder)
    assert fit.returncode == 0, fit.stderr
    assert "wandb sync runs/debug/version_0/wandb/offline-run-" in fit.stdout
    assert ">= 0, projected" in fit.stdout
    assert "epoch 1/1  train/loss" in fit.stdout
    assert "\r" not in fit.stdout  # a log, not a terminal
    test = go_on("test", "--config", "debug", "--ckpt_path", "best", cwd=folder)
    assert test.returncode == 0, test.stderr
    assert "test/acc" in test.stdout
    with open(folder / "runs/debug/test/version_0/metrics.csv") as file:
        assert float(next(csv.DictReader(file))["test/acc"]) > 0
    options = () if alone else FAST
    tune = go_on("finetune", "--config", "debug", "--init_from", "last", *options, cwd=folder)
    assert tune.returncode == 0, tune.stderr
    assert "checkpoints/last.ckpt: loaded 40 tensors" in tune.stderr
    assert (folder / "runs/debug/version_1/checkpoints/last.ckpt").exists()


@pytest.mark.slow  # test_crash.py kills a run, and resumes it to the same weights
def test_an_interrupted_run_resumes_to_the_same_weights(folder):
    """Ctrl-C inside an epoch, then `--ckpt_path last`, against a run that was left alone."""
    args = shlex.split("fit --config debug --trainer.max_epochs 4 --trainer.limit_train_batches 12")
    args += FAST
    run("", *args, "--run.name", "whole")
    script = (
        "import os, signal, sys; import pytorch_lightning as pl\n"
        "from dmn.cli.main import main\n"
        "def strike(self, trainer, module, *_):\n"
        "    if trainer.global_step == 30: os.kill(os.getpid(), signal.SIGINT)\n"
        "pl.Callback.on_train_batch_end = strike\n"
        "main(sys.argv[1:])\n"
    )
    stopped = subprocess.run(
        [sys.executable, "-c", script, *args, "--run.name", "cut"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert stopped.returncode == 1
    assert "resume with --ckpt_path last" in stopped.stdout
    state = torch.load("runs/cut/version_0/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 24  # two whole epochs; the third was cut
    run("", *args, "--run.name", "cut", "--ckpt_path", "last")
    whole, resumed = (Path("runs", name, "version_0") for name in ("whole", "cut"))
    states = [weights(folder / "checkpoints/last.ckpt") for folder in (whole, resumed)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    tables = [(folder / "metrics.csv").read_text().splitlines() for folder in (whole, resumed)]
    assert len(tables[0]) == 1 + 4
    assert tables[0] == tables[1]


def test_both_parts_of_a_resumed_run_are_synced(folder, monkeypatch, capsys):
    """Weights & Biases is offline: nothing is erased, and the last line names both folders."""
    (folder / "stopping.py").write_text(
        "import pytorch_lightning as pl\n"
        "class Stop(pl.Callback):\n"
        "    def on_train_epoch_start(self, trainer, module):\n"
        "        if trainer.current_epoch == 1:\n"
        "            raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(folder)
    command = ["fit --config debug --trainer.max_epochs 2 --run.name w", *FAST]
    with pytest.raises(SystemExit):
        run(*command, "--trainer.callbacks+", "stopping.Stop")
    capsys.readouterr()
    run(*command, "--ckpt_path", "last")
    (sync,) = [line for line in capsys.readouterr().out.splitlines() if "wandb sync" in line]
    parts = list(folder.glob("runs/w/version_0/wandb/offline-run-*"))
    assert len(parts) == 2
    assert all(part.name in sync and list(part.glob("*.wandb")) for part in parts)
    with open(folder / "runs/w/version_0/metrics.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]


def test_a_training_in_half_precision_scores_its_maps(folder):
    run("fit --config debug --trainer.precision bf16-true --heatmaps.every_n_epochs 0")
    with open(folder / "runs/debug/version_0/metrics.csv") as file:
        row = list(csv.DictReader(file))[-1]
    scores = {name: value for name, value in row.items() if re.fullmatch("quantus/.*/.*", name)}
    assert scores
    for method in {name.rpartition("/")[2] for name in scores}:  # the controls among them
        assert any(scores[name] != "nan" for name in scores if name.endswith(f"/{method}"))


def test_config_files_dotted_options_and_print_config(folder, capsys):
    Path("mine.yaml").write_text("trainer: {max_epochs: 7}\nquantus: {images: 3}\n")
    with pytest.raises(SystemExit):
        run("fit --config debug --config=mine.yaml --quantus.images 5 --data.fold 2 --print_config")
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["max_epochs"] == 7
    assert config["quantus"]["images"] == 5
    assert config["data"]["init_args"]["fold"] == 2
    assert config["checkpoint"]["monitor"] == "val/acc"


def test_the_saved_config_repeats_the_run(folder):
    run("fit --config debug --seed_everything 5", *FAST)
    run("fit --config runs/debug/version_0/config.yaml")
    first, second = (weights(f"runs/debug/version_{k}/checkpoints/last.ckpt") for k in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    third = "runs/debug/version_2/checkpoints/last.ckpt"
    run("fit --config debug --seed_everything 6", *FAST)
    assert not all(torch.equal(value, first[key]) for key, value in weights(third).items())


@pytest.mark.slow  # train/test_two_processes.py trains by two, too
def test_two_processes_train_one_run(folder):
    """DDP on the CPU: weights, scores and files of one run, and one line an epoch."""
    devices = shlex.split("--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp")
    result = shell("fit", "--config", "debug", "--trainer.max_epochs", "2", *devices, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 2/2") == 1
    assert "sync_dist" not in result.stderr
    assert [path.name for path in Path("runs/debug").iterdir()] == ["version_0"]
    rows = csv.DictReader(Path("runs/debug/version_0/metrics.csv").read_text().splitlines())
    for row in rows:
        assert float(row["quantus/unscored"]) < 1
        assert float(row["constraint/min_weight"]) >= 0
    assert row["epoch"] == "1"
    assert len(list(Path("runs/debug/version_0/heatmaps").iterdir())) == 6


def test_validating_scores_and_draws_the_checkpoint(folder):
    run("fit --config debug", *FAST)
    run("validate --config debug --ckpt_path best --quantus.images 4")
    left = Path("runs/debug/validate/version_0")
    (row,) = csv.DictReader((left / "metrics.csv").read_text().splitlines())
    assert float(row["quantus/unscored"]) < 0.5
    assert float(row["quantus/Sparseness/splitcam"]) > 0
    assert len(list(left.glob("heatmaps/*.png"))) == 3


def test_optimizer_and_schedule_by_class_path(folder):
    run(
        "fit --config debug --model.optimizer torch.optim.SGD --model.optimizer.init_args.lr 0.1 "
        "--model.lr_scheduler torch.optim.lr_scheduler.CosineAnnealingLR",
        *FAST,
    )
    state = torch.load("runs/debug/version_0/checkpoints/last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.1
    assert state["lr_schedulers"][0]["T_max"] == 2  # the steps of the whole run


def test_scores_can_choose_the_checkpoint(folder):
    run(
        "fit --config debug --checkpoint.monitor quantus/Sparseness/splitcam --heatmaps.images 1 "
        "--quantus.images 2 --quantus.metrics [Sparseness] --trainer.max_epochs 2"
    )
    assert Path("runs/debug/version_0/checkpoints/best.ckpt").exists()


def test_finetuning_keeps_the_constraint_and_other_options(folder):
    run("fit --config debug", *FAST)
    run(
        "finetune --config debug --init_from best --model.optimizer.init_args.lr 0.001 "
        "--trainer.limit_train_batches 1",
        *FAST,
    )
    config = yaml.safe_load(Path("runs/debug/version_1/config.yaml").read_text())
    assert config["init_from"] == "runs/debug/version_0/checkpoints/best.ckpt"
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.001
    from dmn.models import DifferenceOfMonotone, MonotoneConvNet

    nets = [MonotoneConvNet(2, (4, 4), 1, residual=True) for _ in range(2)]
    net = DifferenceOfMonotone(*nets)
    state = weights("runs/debug/version_1/checkpoints/last.ckpt")
    net.load_state_dict({key.removeprefix("net."): value for key, value in state.items()})
    assert_monotone(net)


def test_finetuning_a_fresh_head_alone_and_going_on(folder):
    """Below a frozen layer nothing changes; what is resumed goes on where it was, in its folder."""
    run("fit --config debug", *FAST)
    tune = "finetune --config debug --init_from runs/debug/version_0/checkpoints/last.ckpt "
    tune += "--fresh_head true --unfreeze.head_epochs 1 --run.name tuned --model.layer_decay 0.5 "
    tune += "--model.lr_scheduler null "
    run(tune, *FAST)
    last = "version_0/checkpoints/last.ckpt"
    begun, tuned = (weights(f"runs/{name}/{last}") for name in ("debug", "tuned"))
    for key, value in begun.items():
        assert value.equal(tuned[key]) == (".head." not in key), key
    run(tune + "--ckpt_path last --trainer.max_epochs 2", *FAST)
    rows = csv.DictReader(Path("runs/tuned/version_0/metrics.csv").read_text().splitlines())
    assert [row["epoch"] for row in rows] == ["0", "1"]
    resumed = weights(f"runs/tuned/{last}")
    thawed = [key for key in begun if key.endswith(".weight") and ".head." not in key]
    assert not any(tuned[key].equal(resumed[key]) for key in thawed)


def test_best_and_last_are_the_newest_of_the_run(tmp_path):
    paths = [tmp_path / "exp" / f"version_{k}" / "checkpoints" / "best.ckpt" for k in (2, 10)]
    for age, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (age, age))
    run_of = Run("exp", str(tmp_path))
    assert find_checkpoint("best", run_of) == str(paths[1])
    assert find_checkpoint("some/path.ckpt", run_of) == "some/path.ckpt"
    assert find_checkpoint(None, run_of) is None


@pytest.mark.torture("a file called as a checkpoint might be", "only ./NAME is that file")
@pytest.mark.parametrize("name", ["best", "last", "mine"])
def test_a_bare_name_is_of_no_file(name, folder, happened):
    assert find_checkpoint(f"./{name}", Run()) == f"./{name}"
    Path(name).write_text("strange")
    with pytest.raises(CheckpointError, match=rf"; write \./{name} for") as told:
        find_checkpoint(name, Run())
    with pytest.raises(CheckpointError, match=rf"; write \./{name} for"):
        initialise(torch.nn.Linear(1, 1), name)
    Path("scenes").write_text("strange")
    assert find_checkpoint("scenes", Run()) == "scenes"
    happened(str(told.value))


LONG = "x" * 300


@pytest.mark.torture("`dmn {command}`, a name of 300 characters", "refused in one line")
@pytest.mark.parametrize(
    "command",
    [
        "fit --config LONG",
        "fit --config LONG.yaml",
        "fit --config debug --run.name LONG",
        "fit --config debug --run.root LONG",
        "fit --config debug --checkpoint.filename LONG",
        "fit --config debug --ckpt_path LONG",
        "finetune --config debug --init_from LONG.pt",
        "test --config debug --ckpt_path LONG.ckpt",
        "explain LONG.png --model scenes",
        "convert resnet18 --weights LONG.pth",
        "convert resnet18 --images LONG.png",
        "compare --config LONG",
        "compare --config mnist --run.name LONG",
    ],
)
def test_names_that_are_too_long_are_refused(command, folder, happened):
    with pytest.raises(SystemExit) as stopped:
        run(command.replace("LONG", LONG))
    told = str(stopped.value.code)
    assert told.startswith("dmn: ")
    assert LONG in told
    assert "\n" not in told
    assert "init_from" in command or not list(folder.iterdir())
    happened(told.replace(LONG, "LONG"))


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow  # test_architecture.py finds files that are opened without an encoding
@pytest.mark.torture(
    "a terminal or a locale of ASCII only", "configs are UTF-8; what cannot be shown is escaped"
)
def test_the_locale_changes_no_file(folder):
    Path("own.yaml").write_text("run: {name: Grüße}\n", encoding="utf-8")
    fit = ["fit", "--config", "debug", "--config", "own.yaml", *FAST]
    shown = shell(*fit, cwd=folder, env={"PYTHONIOENCODING": "ascii"})
    assert shown.returncode == 0, shown.stderr
    assert "runs/Gr\\xfc\\xdfe/version_0" in shown.stdout
    assert Path("runs/Grüße/version_0/checkpoints/last.ckpt").exists()
    named = shell(*fit, cwd=folder, env=ASCII)
    (told,) = [line for line in named.stderr.splitlines() if line.startswith("dmn: ")]
    assert "run.name is 'Gr\\xfc\\xdfe', but this locale's files are named in ascii" in told
    read = shell("compare", "--config", "canonization", "--print_config", cwd=folder, env=ASCII)
    assert read.returncode == 0, read.stderr


@pytest.mark.torture("Ctrl-C while dmn is importing {module}", "it ends without a word, by 130")
@pytest.mark.parametrize(
    "module",
    effort.slow_except(
        {"dmn.cli.main", "torch"},
        ["dmn.cli.main", "dmn.cli.training", "torch", "pytorch_lightning", "dmn.train.task"],
    ),
)
def test_an_interrupt_while_importing_is_quiet(module):
    script = (
        "import os, signal, sys\n"
        "module = sys.argv[1]\n"
        "class Strike:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == module: os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Strike())\n"
        "from dmn.cli.__main__ import main\n"
        "sys.argv = ['dmn', 'fit', '--config', 'debug', '--print_config']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, module], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, b"", b"")


WRONG = {
    **{option: least - 1 for option, least in LEAST.items()},
    "seed_everything": 2**32,
    "model.explainers": {"../../heat": None},
    "checkpoint.filename": "../../best",
}


@pytest.mark.torture(
    "--{option} as no run can have it", "refused by its name, with what would work"
)
@pytest.mark.parametrize("option", WRONG)
def test_options_that_cannot_be_are_named(option, happened):
    check_options(Namespace({option: None}))
    with pytest.raises(OptionError, match=rf"{option} is .*; give ") as told:
        check_options(Namespace({option: WRONG[option]}))
    happened(str(told.value))
    if option in LEAST:
        check_options(Namespace({option: LEAST[option]}))


@pytest.mark.torture("--run.name {name!r}", "refused: it would not lie in the folder of runs")
@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "a/../../evil", "/etc/evil", "a\0b"])
def test_runs_lie_below_their_root(name, happened):
    with pytest.raises(OptionError, match=r"run\.name is .*; give a name") as told:
        Run(name)
    happened(str(told.value))
    assert Run("a/b c-é").name == "a/b c-é"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fit --config nope", "no config 'nope'"),
        ("test --config debug --ckpt_path best --run.name none", "no best.ckpt below runs/none"),
        ("finetune --config debug --init_from none.ckpt", "none.ckpt: there is no such file"),
        (
            "fit --config debug --data.fold 9",
            "Expected a typing.Literal[0, 1, 2, 3, 4]. Got value: 9",
        ),
        ("fit --config debug --quantus.metrics [Truth]", "no metric Truth; there are"),
        ("fit --config debug --model.explainers.splitcam.init_args.layer x", "no layer 'x'"),
        ("fit --config debug --quantus.images -1", "quantus.images is -1; give at least 1"),
        ("fit --config debug --data.batch_size 0", "data.batch_size is 0; give at least 1"),
        ("fit --config debug --run.name ../../evil", "run.name is '../../evil'; give a name"),
        ("fit --config debug --checkpoint.save_top_k -7", "dmn: Invalid value for save_top_k=-7"),
    ],
)
def test_mistakes_are_named_in_one_line(folder, command, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(command)
    err = f"{stopped.value.code}\n{capsys.readouterr().err}"
    assert message in err
    assert "Traceback" not in err
    assert "; give " not in message or not list(folder.iterdir())
