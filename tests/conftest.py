"""Shared by all tests: no network, no stray state, a small pair and images."""

import socket

import pytest
import torch
from small_pairs import tiny_pair

LOCAL = ("127.", "::1", "localhost")


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


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Compute in one thread: several wait for each other longer than small networks take."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def pair():
    return tiny_pair()


@pytest.fixture
def images():
    return torch.rand(5, 1, 8, 8, dtype=torch.float64)
