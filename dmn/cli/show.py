"""`dmn show`: draw a saved explanation, without the network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from textwrap import fill

from dmn.cli.explain import CELL, LEGEND, LEGEND_AGAINST
from dmn.cli.explained import LINE, most_probable
from dmn.cli.parser import Parser
from dmn.explain import Explanation
from dmn.io.options import require_output
from dmn.io.text import plain
from dmn.io.writing import write_whole
from dmn.viz.panels import overlay, panel, png
from dmn.viz.typeface import class_label

DESCRIPTION = """\
Draw an explanation that `dmn explain --save` has saved. The network is not needed.

  dmn show cat_SplitLRP.zip

The file is checked by the hashes in it, which show damage, and not who has written it."""
TOP = 3  # classes that are printed


def main(args: Sequence[str]) -> None:
    """Run `dmn show`.

    Args:
        args: The command line, from the command's name on.
    """
    parser = Parser(
        prog="dmn show",
        usage="dmn show BUNDLE [--out shown.png]",
        description=DESCRIPTION,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="A saved explanation: .zip or folder.")
    parser.add_argument("--out", default="shown.png", help="PNG file to save.")
    show(**vars(parser.parse_args(args[1:])))


def show(bundle: str, out: str = "shown.png") -> None:
    """Say what is in a saved explanation, and save a picture of it.

    Args:
        bundle: A .zip file or a folder.
        out: PNG file to save.

    Raises:
        BundleError: if it is missing, cut short or changed; names the member.
        OptionError: if `out` is no PNG file.
    """
    require_output("--out", out, ".png", [bundle])
    explanation = Explanation.load(bundle)
    likely = most_probable(explanation.probabilities, TOP)
    asked = [explanation.target, *([] if explanation.rival is None else [explanation.rival])]
    names = list(map(explanation.label, asked))
    file = explanation.picture or "a picture"
    facts = {
        file: ", ".join(f"{explanation.label(index)} {share}" for index, share in likely.items()),
        "explained": f"why {' and not '.join(names)}?",
        "method": ", ".join(
            [explanation.method, *(f"{k} {v}" for k, v in explanation.settings.items())]
        ),
        "network": f"{explanation.network}, sha256 {explanation.network_sha256}",
        "made by": ", ".join(f"{name} {number}" for name, number in explanation.versions.items()),
    }
    for name, fact in facts.items():
        print(plain(f"{name}: {fact}"))
    image = explanation.image[None]
    columns = {"image": [image[0]]}
    for stream, values in explanation.maps.items():
        drawn = overlay(image, values[None], against=stream == "h")
        columns[f"{explanation.method} {stream}"] = [drawn[0]]
    lines = [file, *(f"{_drawn(explanation, index)} {share}" for index, share in likely.items())]
    lines.append(f"why {', not '.join(_drawn(explanation, index) for index in asked)}?")
    label = "\n".join(fill(plain(line), LINE) for line in lines)
    legend = LEGEND if explanation.rival is None else LEGEND_AGAINST
    done = "replaced" if os.path.exists(out) else "saved"
    write_whole(out, png(panel(columns, [label], legend, CELL)))
    print(plain(f"{done} {out}"))


def _drawn(explanation: Explanation, index: int) -> str:
    return class_label(explanation.label(index), index)
