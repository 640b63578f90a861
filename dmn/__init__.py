"""Difference-of-monotone networks: image classifiers that explain themselves."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | str | Path | None = None,
) -> Network:
    """Load a trained network, ready to classify and to be explained.

    This is `dmn.hub.load`, which imports torch; importing `dmn` does not.

    Args:
        name: A shipped network such as "scenes", a run's folder, a `.safetensors` file with its
            card or of `dmn convert`, a classifier of torchvision's, or `package.module:factory` of
            your own, which is imported and called; see `dmn.hub.load`.
        weights: Of the last two: a file; of torchvision's also a name such as "DEFAULT".
        num_classes: Likewise, how many outputs.
        model: For converted networks of your own architecture: one of the original's.
        size: Likewise, channels, height and width that pictures are brought to.
        mean: Likewise, subtracted from each channel of pictures in [0, 1].
        std: Likewise, what each channel is then divided by.
        classes: Likewise, names of the outputs, or a text file with one a line.

    Raises:
        UnknownNameError: if there is no such network; names those that there are.
        CheckpointError: if a file is damaged, by its hash or its content.
        OptionError: if an option is given that networks of this kind do not have.
    """
    from dmn.hub import load as load_network  # brings torch, which takes seconds

    return load_network(
        name,
        weights,
        num_classes=num_classes,
        model=model,
        size=size,
        mean=mean,
        std=std,
        classes=classes,
    )
