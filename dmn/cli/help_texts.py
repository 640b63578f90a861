"""What `dmn COMMAND --help` prints: kept in files, as making it takes seconds of imports.

    python -m dmn.cli.help_texts dmn/cli/help       write the files anew (`make help-texts`)

Any other command line with `--help` in it, such as `dmn fit --config mnist --help`, makes its own.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

from dmn.cli.commands import COMMANDS
from dmn.io.writing import write_whole

FOLDER = Path(__file__).with_name("help")
COLUMNS = "100"  # of the lines in the files


def shipped_help(args: Sequence[str]) -> str:
    """Return the help that a command line asks for, if it asks for nothing else.

    Args:
        args: The command line, without the program's name.

    Returns:
        The text; an empty one where none is shipped.
    """
    if len(args) != 2 or args[1] not in ("-h", "--help"):
        return ""
    texts = {path.stem: path for path in FOLDER.glob("*.txt")}
    return texts[args[0]].read_text(encoding="utf-8") if args[0] in texts else ""


def full_help(command: str, module: str) -> str:
    """Return the help of a command as its parser makes it.

    Args:
        command: Its name.
        module: Whose `main` runs it.
    """
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        import_module(module).main([command, "--help"])
    return text.getvalue()


def main(folder: str) -> None:
    """Write the help of every command into a folder, a file each.

    Args:
        folder: Where to; `dmn/cli/help` is what is shipped.
    """
    os.environ["COLUMNS"] = COLUMNS
    for name, command in COMMANDS.items():
        write_whole(Path(folder, f"{name}.txt"), full_help(name, command.module))


if __name__ == "__main__":
    main(*sys.argv[1:])
