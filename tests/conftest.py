"""Shared by all tests: no network, no stray state, small networks and images."""

import socket

import pytest
import torch

from dmn.models import DifferenceOfMonotone, MonotoneConvNet

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


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def randomise(module):
    """Draw batch statistics, scales and shifts, without which tests of BatchNorm are vacuous."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0.0, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
            layer.weight.data.uniform_(0.3, 1.5)
            layer.bias.data.normal_(0.0, 0.5)
    return module


def tiny_pair(inputs="paired", seed=0, **options):
    """Make a small pair in float64 and eval mode, with drawn batch statistics."""
    torch.manual_seed(seed)
    channels = 2 if inputs == "paired" else 1
    options = {"widths": (4, 6), "units": 1, "grid": 2, "num_classes": 3, **options}
    nets = [MonotoneConvNet(channels, **options) for _ in range(2)]
    return randomise(DifferenceOfMonotone(*nets, inputs)).double().eval()


@pytest.fixture
def pair():
    return tiny_pair()


@pytest.fixture
def images():
    return torch.rand(5, 1, 8, 8, dtype=torch.float64)
