"""Every error that dmn raises for what it was asked to do."""

from __future__ import annotations

from typing import Any


class DmnError(Exception):
    """Something that cannot be done as asked; the message names what, and says what would work.

    Each argument is a line of the message.
    """

    @property
    def lines(self) -> list[str]:
        """The message, without what KeyError or a process that loads data adds."""
        first, *others = map(str, self.args or ("",))
        if first.startswith(f"Caught {type(self).__name__} in "):  # and then a traceback
            first = first.rpartition(f"{type(self).__name__}: ")[2].strip()
        return [first, *others]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class OptionError(DmnError):  # no ValueError, which jsonargparse would take for its own
    """An option or a config that cannot be as it is given; names it, and says what can."""


class UnknownNameError(DmnError, LookupError):
    """A name of a network, method, metric, layer, ... that does not exist; lists those that do."""


class TargetError(DmnError, ValueError):
    """A class index that the network does not have, or one that must not be alone."""


class DataError(DmnError, ValueError):
    """Images, masks or labels that are missing, or do not fit; names the file or the shapes."""


class UnreadableImageError(DataError):
    """A file that is no image, or one that nobody should open; names it."""


class CheckpointError(DmnError, ValueError):
    """Weights or a card that are missing, damaged, or of another network; names file and keys."""


class WriteError(DmnError, OSError):
    """A file that cannot be written, as on a full disk; names it. What it held before is kept."""


class MissingPackageError(DmnError, ImportError):
    """A library that is needed and not installed; says how to install it."""


class UnsupportedError(DmnError, ValueError):
    """A network that a method cannot be applied to; names the operations or says why.

    Attributes:
        nodes: Every operation that is not supported, where single ones are to blame: instances of
            `dmn.graph.Unsupported`.
    """

    nodes: tuple[Any, ...] = ()


class NeedsExampleError(UnsupportedError):
    """A network whose forward depends on the shape of images, of which none was given."""


class NotEqualError(DmnError, RuntimeError):
    """A rewritten network that does not predict what the original does; says by how much."""


class NotMonotoneError(DmnError, ValueError):
    """A network that was to be monotone and is not; names the parameter or module."""


class RunError(DmnError, RuntimeError):
    """A run that cannot go on, as a loss is not finite or a process failed; says what is kept."""
