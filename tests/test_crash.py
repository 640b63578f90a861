"""Trainings that are killed, interrupted, or run out of disk: nothing that was saved is lost."""

import csv
import multiprocessing
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time

import effort
import pytest
import torch
from small_disks import run_on_disk

FIT = [
    *("fit", "--config", "debug", "--run.name", "it"),
    *("--quantus.every_n_epochs", "0", "--heatmaps.every_n_epochs", "0"),
]
FORKS = multiprocessing.get_context("forkserver")  # imports once: twenty starts are then cheap
FORKS.set_forkserver_preload(
    ["dmn.cli.main", "dmn.cli.training", "wandb", "mlxtend.data", "sklearn.model_selection"]
)


def dmn(log, args, environment):
    """Run `dmn` in a process group of its own, as a terminal does."""
    os.setsid()
    os.environ.pop("WANDB_SERVICE", None)  # it starts one of its own, as a user's does
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    from dmn.cli.main import main

    main([*FIT, *args])


class Training:
    """A training in a process of its own, and what it says."""

    def __init__(self, root, *args, **environment):
        root.mkdir(exist_ok=True)
        self.log = root / f"{len(list(root.glob('*.log')))}.log"
        told = ["--run.root", str(root), *args]
        self.process = FORKS.Process(target=dmn, args=(self.log, told, environment))
        self.process.start()

    def wait_for_epochs(self, count):
        while self.told.count("\nepoch ") < count:
            assert self.process.is_alive(), self.told
            time.sleep(0.01)

    def signal(self, name):
        os.killpg(self.process.pid, getattr(signal, name))

    def end(self):
        """Wait for the end; return the exit code."""
        self.process.join(300)
        return self.process.exitcode

    @property
    def told(self):
        return self.log.read_text() if self.log.exists() else ""


def checkpoint(root, name="last"):
    return torch.load(root / f"it/version_0/checkpoints/{name}.ckpt", weights_only=True)


def rows(root):
    """What was logged each epoch, without what it took."""
    with open(root / "it/version_0/metrics.csv", newline="") as file:
        return [
            {key: value for key, value in row.items() if not key.startswith("time/")}
            for row in csv.DictReader(file)
        ]


def equal(one, other):
    """Whether nested states are equal, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.torture(
    "SIGKILL a training at random moments, resume it each time",
    "weights, optimizer and metrics bit-equal to an undisturbed run",
)
def test_a_training_that_is_killed_again_and_again(tmp_path, full, happened):
    kills = 20 if full else effort.examples(1, 2)
    length = f"--trainer.max_epochs={8 * kills}"
    root, whole = tmp_path / "killed", tmp_path / "whole"
    moment = random.Random(0)
    ended = []
    for _ in range(kills):
        training = Training(root, length, *(["--ckpt_path", "last"] if ended else []))
        training.wait_for_epochs(2)  # each time at least one more is kept
        time.sleep(moment.uniform(0, 0.5))
        training.signal("SIGKILL")
        assert training.end() == -signal.SIGKILL, training.told
        ended.append(checkpoint(root)["epoch"])
        logged = [int(row["epoch"]) for row in rows(root)]
        assert logged == list(range(len(logged)))
        assert len(logged) - (ended[-1] + 1) in (0, 1), (logged, ended)
    for run in (Training(root, length, "--ckpt_path", "last"), Training(whole, length)):
        assert run.end() == 0, run.told
    for name in ("best", "last"):
        one, other = checkpoint(root, name), checkpoint(whole, name)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert equal(one[key], other[key]), (name, key)
    assert rows(root) == rows(whole)
    assert not list(root.rglob(".*.part"))
    happened(f"{kills} kills after epochs {ended}; last.ckpt, best.ckpt, metrics.csv are equal")


def wandb_records(root):
    """The kinds of records in a Weights & Biases run, whose file is a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = root.glob("it/version_0/wandb/*run-*/*.wandb")
    data, offset, record = path.read_bytes(), 7, b""
    while offset < len(data):
        left = 32768 - offset % 32768
        if left < 7:  # too little for the next header in this block
            offset += left
            continue
        size, kind = struct.unpack_from("<HB", data, offset + 4)
        record += data[offset + 7 : offset + 7 + size]
        offset += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record).WhichOneof("record_type")
            record = b""


@pytest.mark.torture(
    "{name} to a training and all its processes", "it says how to resume, and closes W&B"
)
@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_training_that_is_interrupted_can_be_resumed(name, tmp_path, happened):
    training = Training(tmp_path, "--trainer.max_epochs=500")
    training.wait_for_epochs(2)
    training.signal(name)
    assert training.end() == {"SIGINT": 1, "SIGTERM": 128 + 15}[name], training.told
    (line,) = re.findall(r"interrupted; the last whole epoch is .*", training.told)
    happened(line.replace(str(tmp_path), ""))
    assert "Traceback" not in training.told
    assert list(wandb_records(tmp_path))[-1] == "exit"
    done = checkpoint(tmp_path)["epoch"] + 1
    assert [int(row["epoch"]) for row in rows(tmp_path)] == list(range(done))


WITHOUT = {
    "is not to be reached": {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "2",
    },
    "knows no login": {"NETRC": "/nowhere", "WANDB_API_KEY": ""},
}


@pytest.mark.torture(
    "Weights & Biases {what} when a training starts",
    "it trains on, says why once, and keeps the run offline",
)
@pytest.mark.parametrize("what", effort.slow_except({"knows no login"}, WITHOUT))
def test_a_training_starts_without_weights_and_biases(what, tmp_path, happened):
    options = ("--run.online", "true", "--trainer.max_epochs=2")
    training = Training(tmp_path, *options, **WITHOUT[what])
    assert training.end() == 0, training.told
    (reason,) = re.findall(r"EpochWandbLogger: (starting a run failed by .*)", training.told)
    happened(reason)
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1"]
    assert list((tmp_path / "it/version_0/wandb").glob("offline-run-*"))
    assert "wandb sync" in training.told


@pytest.mark.slow  # above, it is not there from the start
@pytest.mark.torture(
    "SIGKILL to Weights & Biases' process while training", "it trains on, says why once, and counts"
)
def test_a_training_goes_on_where_weights_and_biases_dies(tmp_path, happened):
    epochs = 30
    training = Training(tmp_path, f"--trainer.max_epochs={epochs}")
    training.wait_for_epochs(1)
    subprocess.run(["pkill", "-KILL", "-P", str(training.process.pid), "wandb"], check=True)
    assert training.end() == 0, training.told
    reasons = re.findall(r"EpochWandbLogger: (flush failed by .*)", training.told)
    happened("; ".join(reasons))
    *first, last = reasons
    assert re.search(r"flush failed by \w+: \d+ times in all", last)
    assert len({reason.partition(":")[0] for reason in first}) == len(first)  # each kind once
    assert [int(row["epoch"]) for row in rows(tmp_path)] == list(range(epochs))
    assert checkpoint(tmp_path)["epoch"] == epochs - 1


TRAIN_ON_A_DISK = """
import csv, threading, time
import torch
from dmn.cli.main import main
path = disk / "it/version_0"

def when_an_epoch_is_kept():
    while not (path / "checkpoints/last.ckpt").exists():
        time.sleep(0.01)
    HOW

threading.Thread(target=when_an_epoch_is_kept, daemon=True).start()
error = said(main, [*FIT, "--run.root", str(disk), "--trainer.max_epochs=400"])
print("SAID", error)
kept = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
assert all(torch.isfinite(value).all() for value in kept["state_dict"].values())
assert not list(disk.rglob(".*.part")), list(disk.rglob(".*.part"))
assert len(list(csv.DictReader(open(path / "metrics.csv")))) >= 1
"""


@pytest.mark.torture(
    "the disk gets {state} in the midst of a training",
    "an error that names the checkpoint; the last good one can be read",
)
@pytest.mark.slow  # train/test_checkpoint.py fills a disk while a checkpoint is saved
@pytest.mark.parametrize(
    ("state", "how"),
    [("full", "fill()"), ("read-only", "make_read_only(path / 'checkpoints')")],
)
def test_a_training_whose_disk_gives_out(state, how, tmp_path, happened):
    code = f"FIT = {FIT!r}\n" + TRAIN_ON_A_DISK.replace("HOW", how)
    (error,) = re.findall("SAID (.*)", run_on_disk(tmp_path, code, 16))
    happened(error.replace(str(tmp_path), ""))
    assert re.match(r"dmn: .*/checkpoints/(last|best).ckpt: cannot be written, ", error)


@pytest.mark.slow  # above, it gets full in the midst
@pytest.mark.torture("a training is started on a {state} disk", "an error before anything is done")
@pytest.mark.parametrize(
    ("state", "how"),
    [
        ("full", "fill()"),
        ("read-only", "make_read_only()"),
    ],
)
def test_a_training_on_a_disk_that_takes_nothing(state, how, tmp_path, happened):
    code = f"""
from dmn.cli.main import main
{how}
print("SAID", said(main, {FIT!r} + ["--run.root", str(disk / "runs")]))
"""
    (error,) = re.findall("SAID (.*)", run_on_disk(tmp_path, code, 2))
    happened(error.replace(str(tmp_path), ""))
    assert error.startswith("dmn: ")
    assert "cannot be written" in error
