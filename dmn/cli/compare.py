"""`dmn compare`: how good explanations are, self-explanations and others, on the same images."""

from __future__ import annotations

from collections.abc import Sequence

import dmn.data  # noqa: F401  (whose classes the help names)
from dmn.cli.config import add_config_option
from dmn.cli.parser import Parser
from dmn.compare import Comparison
from dmn.tracking import Run

DESCRIPTION = """\
Compare explanations by Quantus' metrics: of networks that explain themselves, and by other methods.

  dmn compare --config scenes
  dmn compare --config scenes --budget.test 20 --budget.expensive 5    a quick look
  dmn compare --config mine.yaml --run.online true                   send it to Weights & Biases
  dmn compare --config scenes --devices 2                            two processes, or GPUs, at once

Networks are named as by `dmn explain --model`: timm's as timm:NAME, those of Hugging Face as
hf:FOLDER, of your own code as package.module:factory, with its weights. The report, its tables
(parquet and CSV) and an offline Weights & Biases run lie in runs/compare/NAME. What is scored is
kept: the same command goes on where it was stopped."""
FOLDER = "compare"  # of the shipped configs


def main(args: Sequence[str]) -> None:
    """Run `dmn compare`.

    Args:
        args: The command line, from the command's name on.
    """
    parser = _parser()
    config = parser.parse_args(list(args[1:]))
    text = parser.dump(config)
    instances = parser.instantiate_classes(config)
    options = {name: instances[name] for name in vars(instances) if name not in ("config", "run")}
    Comparison(**options).run(instances.run, text)


def _parser() -> Parser:
    parser = Parser(
        prog="dmn compare",
        usage="dmn compare --config NAME_OR_FILE [--OPTION VALUE ...]",
        description=DESCRIPTION,
    )
    add_config_option(parser, FOLDER)
    parser.add_class_arguments(Run, "run")
    parser.add_class_arguments(Comparison, None)
    return parser
