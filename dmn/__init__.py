"""Difference-of-monotone networks: image classifiers that explain themselves."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from dmn.hub.network import Network

__version__ = version("dmn")


def load(
    name: str | Path,
    weights: str | Path | None = None,
    *,
    num_classes: int | None = None,
    model: nn.Module | None = None,
) -> Network:
    """Load a trained network, ready to classify and to be explained.

    This is `dmn.hub.load`, which imports torch; importing `dmn` does not.

    Args:
        name: A shipped network such as "scenes", a run's folder, a `.safetensors` file with its
            card or of `dmn convert`, or a classifier of torchvision's; see `dmn.hub.load`.
        weights: Of torchvision's classifiers only: a name such as "DEFAULT", or a file.
        num_classes: Outputs of a classifier of torchvision's.
        model: For converted networks of your own architecture: one of the original's.

    Raises:
        UnknownNameError: if there is no such network; names those that there are.
        CheckpointError: if a file is damaged, by its hash or its content.
        OptionError: if an option is given that networks of this kind do not have.
    """
    from dmn.hub import load as load_network  # brings torch, which takes seconds

    return load_network(name, weights, num_classes=num_classes, model=model)
