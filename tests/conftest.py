"""Shared by all tests: no network, no stray state, a small pair and images.

Tests that break something say so by `@pytest.mark.torture(done, expected)`, where both may name
parameters of the test in braces, and may say what happened by the fixture `happened`. `make
torture` runs these alone, at full length, and prints a line for each.

Tests that are slow, and others like which are quick enough to stand for them, are marked by
`@pytest.mark.slow`; `effort.py` does so for parts of a grid, and counts examples. `--thorough`, or
`make test-all`, runs everything at full length.
"""

import logging
import socket

import effort
import pytest

# What takes seconds to import is imported where it is used: the process that only hands out the
# tests to others loads this file, too, and they wait for it.

LOCAL = ("127.", "::1", "localhost")
LONGEST = (  # files, to be started first where several processes share the tests
    *("test_crash", "test_recipes", "test_training", "test_configs", "test_streaming"),
    *("test_first_steps", "test_two_processes", "test_processes", "test_leaks"),
    "test_shipped_networks",
)


def pytest_addoption(parser):
    parser.addoption("--torture", action="store_true", help="tests of `torture` at full length")
    parser.addoption("--thorough", action="store_true", help="all tests, `slow` ones too")


def pytest_configure(config):
    if config.getoption("--thorough"):
        config.option.markexpr = ""
        effort.thorough = True


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    marker = item.get_closest_marker("torture")
    if marker and (call.when == "call" or report.failed):
        named = getattr(item, "callspec", None)
        told = [text.format(**named.params) if named else text for text in marker.args]
        report.torture = (*told, str(call.excinfo.value) if report.failed else told[1])
    return report


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--torture"):
        return
    reports = [each for kind in terminalreporter.stats.values() for each in kind]
    for report in sorted((r for r in reports if hasattr(r, "torture")), key=lambda r: r.nodeid):
        done, expected, happened = report.torture
        properties = dict(report.user_properties)
        happened = properties.get("happened", happened) if report.passed else happened
        verdict = "holds" if report.passed else "FAILS"
        lines = [verdict, done, f"expected: {expected}", f"happened: {' '.join(happened.split())}"]
        terminalreporter.write_line(" | ".join(lines))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(LOCAL):
            raise OSError(f"tests run offline; refused to connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture(autouse=True)
def _messages_are_caught():
    """Undo what the command line does to the package's messages, which would hide them here."""
    log = logging.getLogger("dmn")
    log.propagate = True
    log.handlers.clear()


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Compute in one thread: several wait for each other longer than small networks take."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    torch.manual_seed(0)


@pytest.fixture
def full(request):
    """Whether `make torture` asks for the full length."""
    return request.config.getoption("--torture")


@pytest.fixture
def happened(record_property):
    """Say what happened, for the line of `make torture`."""
    return lambda text: record_property("happened", text)


@pytest.fixture
def pair():
    from small_pairs import tiny_pair

    return tiny_pair()


@pytest.fixture
def images():
    import torch

    return torch.rand(5, 1, 8, 8, dtype=torch.float64)


@pytest.fixture
def task():
    from train_problem import make_task

    return make_task()


@pytest.fixture
def data():
    from train_problem import Halves

    return Halves()


@pytest.fixture
def make_trainer(tmp_path):
    import pytorch_lightning as pl

    from dmn.train import ProjectNonnegative

    def make(*callbacks, **options):
        options = {
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            **options,
        }
        return pl.Trainer(callbacks=[ProjectNonnegative(), *callbacks], **options)

    return make
