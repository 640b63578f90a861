"""A comparison over several machines, here as processes on the loopback device."""

import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from dmn.cli.main import main

MORTAL = """
import os, signal, sys
from dmn.cli.main import main
from dmn.compare.suite import Suite

measure, made = Suite._measure, []

def mortal(self, *args):
    if os.environ["RANK"] == "1" and len(made) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(args)
    return measure(self, *args)

Suite._measure = mortal
main(sys.argv[1:])
"""
LONGEST = 240  # seconds


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    path = folder / "small.yaml"
    settings = {
        "run": {"name": "one", "root": str(folder / "runs")},
        "networks": {"pair": {"name": "mnist_paired"}},
        "data": {"class_path": "dmn.data.MNIST"},
        "metrics": ["PixelFlipping", "Sparseness"],
        "budget": {"validation": 2, "test": 4},
        "gallery": 1,
        "device": "cpu",
        "methods": {"pair": {"SplitCAM": {"layer": ["stem", "stage1_1"]}, "Gradient": {}}},
    }
    path.write_text(yaml.safe_dump(settings))
    main(["compare", "--config", str(path)])
    return path


def start(commands, **environments):
    """Start a process for each machine, with environment variables that may differ."""
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
                **{name: str(values[rank]) for name, values in environments.items()},
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]


def scores(config, name):
    return pd.read_parquet(config.parent / "runs/compare" / name / "scores.parquet")


def free_port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def compare(config, name):
    return ["compare", "--config", str(config), f"--run.name={name}", "--num_nodes=2"]


def test_two_machines_of_slurm_score_what_one_does(config):
    started = start(
        [["-m", "dmn.cli", *compare(config, "slurm")]] * 2,
        SLURM_NTASKS=(2, 2),
        SLURM_NNODES=(2, 2),
        SLURM_NTASKS_PER_NODE=(1, 1),
        SLURM_JOB_NAME=("compare", "compare"),
        SLURM_JOB_ID=(1, 1),
        SLURM_PROCID=(0, 1),
        SLURM_NODEID=(0, 1),
        SLURM_LOCALID=(0, 0),
        MASTER_ADDR=("127.0.0.1",) * 2,
        MASTER_PORT=(free_port(),) * 2,
    )
    said = [process.communicate(timeout=LONGEST)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "see " in said[0]
    assert "see " not in said[1]  # only the first writes a report
    pd.testing.assert_frame_equal(scores(config, "slurm"), scores(config, "one"), check_exact=True)


@pytest.mark.slow
@pytest.mark.torture(
    "one of two machines under torchrun is killed in the middle of a comparison",
    "the other scores what is left, and all scores are bit-equal to those of one process",
)
def test_a_machine_that_dies_costs_only_its_unfinished_cells(config, tmp_path):
    program = tmp_path / "mortal.py"
    program.write_text(MORTAL)
    port = free_port()
    nodes = [
        [
            *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
            *(f"--node-rank={rank}", "--master-addr=127.0.0.1", f"--master-port={port}"),
            *(str(program), *compare(config, "cut")),
        ]
        for rank in range(2)
    ]
    first, second = start(nodes)
    assert "SIGKILL" in second.communicate(timeout=LONGEST)[0]
    report = config.parent / "runs/compare/cut/report.html"
    until = time.monotonic() + LONGEST
    while not report.is_file() and time.monotonic() < until:
        time.sleep(1)
    first.terminate()  # torchrun would wait for five minutes for the machine that is dead
    said = first.communicate(timeout=LONGEST)[0]
    assert "another process has failed" in said
    pd.testing.assert_frame_equal(scores(config, "cut"), scores(config, "one"), check_exact=True)


def test_another_number_of_processes_than_there_are_is_refused(config):
    (alone,) = start(
        [["-m", "dmn.cli", "compare", "--config", str(config), "--devices=3"]],
        SLURM_NTASKS=(2,),
        SLURM_NTASKS_PER_NODE=(2,),
        SLURM_JOB_NAME=("compare",),
        SLURM_PROCID=(0,),
        SLURM_LOCALID=(0,),
        SLURM_NODEID=(0,),
    )
    said = alone.communicate(timeout=LONGEST)[0]
    assert alone.returncode == 1
    assert "devices: 3 of cpu: " in said
    assert "Traceback" not in said
