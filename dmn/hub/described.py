"""What a person says of a network's images and classes, by options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dmn.errors import CheckpointError, OptionError
from dmn.hub.building import about_images
from dmn.hub.cards import ImageCard, validate_card
from dmn.io.reading import regular
from dmn.io.resources import is_path
from dmn.io.text import one_line


def images_described(name: str, **values: Iterable[float] | None) -> dict[str, Any]:
    """Return what `Network` wants to know of its images: size, mean, std and transform.

    Args:
        name: Of the network, for messages.
        **values: size, mean and std; see `dmn.load`.

    Raises:
        OptionError: if one of them cannot be.
    """
    lists = {
        key: list(value) if isinstance(value, Iterable) else value for key, value in values.items()
    }
    try:
        return about_images(validate_card(ImageCard, lists, name))
    except CheckpointError as error:
        raise OptionError(str(error)) from error


def classes_described(classes: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    """Return names of classes, or those that stand in a text file, one a line.

    Args:
        classes: Names, or a file; None for none.

    Raises:
        OptionError: if the file cannot be read.
    """
    names = [str(classes)] if isinstance(classes, str | Path) else list(classes or ())
    if len(names) == 1 and is_path(names[0]):
        try:
            lines = regular(names[0]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise OptionError(f"classes: {names[0]} cannot be read: {one_line(error)}") from error
        names = [line.strip() for line in lines if line.strip()]
    return tuple(names)


def require_one_per_output(names: Sequence[str], outputs: int) -> None:
    """Refuse names of classes, if there are any, of which there is not one for each output.

    Raises:
        OptionError: with both numbers.
    """
    if names and len(names) != outputs:
        hint = "; name the class that a single one speaks for" if outputs == 1 else ""
        raise OptionError(f"classes are {len(names)}, but it has {outputs} outputs{hint}")
