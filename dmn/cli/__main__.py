"""The program `dmn`: its imports take seconds, in which Ctrl-C ends it without a traceback."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def end_at_interrupt() -> Iterator[None]:
    """End the process at Ctrl-C without a word: an exception would meet whatever is imported."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Run the `dmn` command."""
    with end_at_interrupt():
        from dmn.cli.main import main as run

    run(importing=end_at_interrupt)


if __name__ == "__main__":
    main()
