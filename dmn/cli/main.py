"""The `dmn` command: its help, and the start of the command that is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from textwrap import fill

from dmn import __version__
from dmn.cli.commands import COMMANDS, Command
from dmn.cli.config import configs_looked_through
from dmn.cli.help_texts import shipped_help
from dmn.cli.messages import choose_messages, refusals_in_one_line
from dmn.cli.parser import Parser
from dmn.errors import UnknownNameError
from dmn.io.resources import config_names, config_path

DESCRIPTION = """\
Train image classifiers that explain themselves, as differences of monotone networks; convert
trained ones into such differences; score explanations.

  dmn fit --config mnist                       train, watching it explain itself
  dmn test --config mnist --ckpt_path best     report its test accuracy
  dmn explain cat.jpg --model resnet18         see what speaks for a class
  dmn compare --config scenes                  score explanations

Configs are files or, from any folder, these names:
{configs}.
A file without a suffix is ./NAME; a bare name is always of what is shipped.
Later configs and dotted options override earlier ones:
  dmn fit --config mnist --config mine.yaml --trainer.max_epochs 5 --quantus.images 32"""


def main(
    args: Sequence[str] | None = None,
    importing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Run the `dmn` command.

    Args:
        args: The command line, without the program's name; None takes the process's.
        importing: Surrounds the import of a command, which takes seconds.
    """
    choose_messages()
    process_args = sys.argv
    try:
        with refusals_in_one_line(), configs_looked_through():
            _run(process_args[1:] if args is None else list(args), importing)
    finally:
        sys.argv = process_args


def _run(args: list[str], importing: Callable[[], AbstractContextManager[None]]) -> None:
    if text := shipped_help(args):
        print(text, end="")
        sys.exit(0)
    command = _command(args)
    sys.argv = [sys.argv[0], *args]  # from which Lightning starts further processes
    with importing():
        module = import_module(command.module)
    module.main(_with_config_paths(args, command.configs))


def _command(args: list[str]) -> Command:
    """Find a command, or do what is asked of `dmn` itself, such as `--help`, and end.

    Raises:
        UnknownNameError: names the commands that there are.
    """
    if args and args[0] in COMMANDS:
        return COMMANDS[args[0]]
    if not args or args[0].startswith("-"):
        _parser().parse_args(args[:1] or ["--help"])
    raise UnknownNameError(f"no command {args[0]!r}; there are {', '.join(COMMANDS)}")


def _parser() -> Parser:
    configs = fill(", ".join(config_names()), 96, initial_indent="  ", subsequent_indent="  ")
    parser = Parser(
        prog="dmn",
        usage="dmn COMMAND [ARGUMENTS ...]",
        description=DESCRIPTION.format(configs=configs),
        version=__version__,
    )
    added = parser.add_subcommands(required=False, title="commands", description=None)
    for name, command in COMMANDS.items():
        added.add_subcommand(name, Parser(), help=command.summary)
    return parser


def _with_config_paths(args: Sequence[str], folder: str) -> list[str]:
    """Replace the names of shipped configs by their paths."""
    paths = []
    for before, argument in zip(["", *args], args, strict=False):
        if before in ("--config", "-c"):
            argument = str(config_path(argument, folder))
        elif argument.startswith("--config="):
            argument = f"--config={config_path(argument.removeprefix('--config='), folder)}"
        paths.append(argument)
    return paths
