"""The program `dmn`: its imports take seconds, in which Ctrl-C ends it without a traceback."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the `dmn` command."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # its exception would meet whatever is being imported
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from dmn.cli.training import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
