"""What the command line says: refusals in one line, and of other packages' messages few."""

from __future__ import annotations

import errno
import io
import logging
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dmn.errors import DmnError, UnsupportedError
from dmn.io.text import plain, plain_lines
from dmn.io.writing import UNWRITABLE

NOISE = (  # Lightning's own
    "isinstance.treespec, LeafSpec",
    "does not have many workers",
    "Checkpoint directory .* exists and is not empty",  # of a resumed run
    "The dirpath has changed from",  # of a checkpoint that is tested
)
ADVERTISEMENT = "litlogger"
PLACES = 3  # that are named of operations of one kind


@contextmanager
def refusals_in_one_line() -> Iterator[None]:
    """End the process with one line, and no traceback, where it cannot do what it is asked to."""
    try:
        yield
    except KeyboardInterrupt:  # of what does not train; Lightning ends trainings by itself
        print("\ninterrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except SystemExit as stopped:
        if _is_of_lightning(stopped, "SIGTERMException"):
            sys.exit(128 + signal.SIGTERM)  # Lightning's own would pass for success
        raise
    except Exception as error:
        if message := _refusal(error):
            sys.exit(f"dmn: {message}")
        raise


def _refusal(error: BaseException) -> str:
    """Return the message for an error; an empty one for a fault of the program."""
    if isinstance(error, DmnError):
        return "\n".join(map(plain, error.lines))
    if isinstance(error.__cause__, DmnError):  # wrapped by jsonargparse in a long message
        return _refusal(error.__cause__)
    if _is_of_lightning(error, "MisconfigurationException"):  # of what it was asked to do
        return plain(" ".join(str(error).split()))
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return plain(f"{error.filename or 'a file'}: cannot be written, {error.strerror}")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return plain(f"{error.filename}: the name is too long for a file; give a shorter one")
    return ""


@contextmanager
def kinds_counted(*hints: str) -> Iterator[None]:
    """Have an `UnsupportedError` list operations without a rule by kind.

    Args:
        hints: Lines to add: what works instead.
    """
    try:
        yield
    except UnsupportedError as error:
        if not error.nodes:
            raise
        told = UnsupportedError(error.lines[0], *_grouped(error.nodes), *hints)
        told.nodes = error.nodes
        raise told from error


def _grouped(nodes: Iterable[Any]) -> list[str]:
    """Return a line for each kind of operation and reason: how many there are, and where."""
    places: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        places.setdefault((node.kind, node.needs), []).append(node.place)
    lines = []
    for (kind, needs), found in places.items():
        more = ", ..." if len(found) > PLACES else ""
        where = ", ".join(found[:PLACES]) + more
        several = f"{len(found)} {kind} ({where})"
        lines.append(f"  {several if len(found) > 1 else f'{where} ({kind})'}: {needs}")
    return lines


def _is_of_lightning(error: BaseException, name: str) -> bool:
    """Return whether an error is Lightning's, whose classes would take seconds to import."""
    package = type(error).__module__.partition(".")[0]
    return package in ("pytorch_lightning", "lightning_fabric") and type(error).__name__ == name


def choose_messages() -> None:
    """Let the package's own messages through, as plain lines, and keep some of others' out.

    Characters that the terminal's encoding lacks are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for message in NOISE:
        warnings.filterwarnings("ignore", f".*{message}")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    log = logging.getLogger("dmn")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_PlainFormatter())
        log.addHandler(handler)
        log.propagate = False  # other packages give the root logger handlers of their own


class _PlainFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return plain(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return plain_lines(super().formatException(ei))


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return ADVERTISEMENT not in record.getMessage()
