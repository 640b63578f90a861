"""Difference-of-monotone networks: image classifiers that explain themselves."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmn.hub.networks import Network

__version__ = version("dmn")


def load(name: str) -> Network:
    """Load a trained network, ready to classify and to be explained.

    Args:
        name: A shipped network such as "scenes", a run's folder, or whatever else
            `dmn.hub.networks.load_network` takes.

    Raises:
        UnknownNameError: if there is no such network; names those that there are.
        CheckpointError: if a file is damaged, by its hash or its content.
    """
    from dmn.hub.networks import load_network  # brings torch, which takes seconds

    return load_network(name)
