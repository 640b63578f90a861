"""Measure how long it takes to import dmn, and to print the help and the version of `dmn`.

    python recipes/startup.py               # medians of 5 runs
    python recipes/startup.py --runs 20

Each run is a process of its own. Seconds are those of a clock on the wall: leave the machine idle
meanwhile. A first run, which also reads files that no later one has to, is not counted.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from dmn.cli.commands import COMMANDS


def seconds(command: Sequence[str], runs: int) -> float:
    """Return the median time of a command."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def main(args: Sequence[str] | None = None) -> None:
    """Print a table of what takes how long."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--runs", type=int, default=5, help="whose median is printed; default 5")
    options = parser.parse_args(args)
    bare = seconds(["-c", "import torch"], options.runs)
    both = seconds(["-c", "import torch, dmn"], options.runs)
    table = Table("what", "seconds")
    table.add_row("import torch", f"{bare:.2f}")
    table.add_row("import dmn adds", f"{both - bare:.2f}")
    for words in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
        took = seconds(["-m", "dmn.cli", *words], options.runs)
        table.add_row(f"dmn {' '.join(words)}", f"{took:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
