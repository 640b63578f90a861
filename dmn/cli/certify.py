"""`dmn certify`: for which pictures the class is certain, whatever changes within bounds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmn.certify import box, certified_map, guaranteed_margin, least_change
from dmn.cli.explain import CELL, find_target, read
from dmn.cli.messages import kinds_counted
from dmn.cli.networks import add_images_and_model
from dmn.cli.parser import Parser, number
from dmn.errors import DataError
from dmn.hub import Network, load
from dmn.hub.preprocess import per_channel, preprocess
from dmn.io.options import require, require_output
from dmn.io.text import plain, plain_lines, size_text
from dmn.io.writing import write_whole
from dmn.nn import predict_logits
from dmn.viz.panels import overlay, panel, png
from dmn.viz.typeface import class_label

DESCRIPTION = """\
Prove for pictures of your own that small changes cannot take their class away.

  dmn certify digit.png --model mnist_inverted --eps 0.01
  dmn certify digit.png --model mnist_inverted --eps 1 --mask corner.png   only white pixels change
  dmn certify digit.png --model runs/mnist/version_0 --invert  a dark digit on white paper

A line is printed for each picture: its class; whether the class is certain, so that no change of
pixels by at most EPS, of values from 0 to 1, gives another; by how much its logit exceeds all
others then, at least; and the largest change for which the class is certain. A panel is saved: the
redder a cell of pixels, the more its worst change by EPS can lower that margin, alone.
"No" is no proof that there is such a change, unless the bounds are exact: a trained difference
network with inverted inputs has exact ones of each logit. Deep ordinary networks have loose ones.
A name package.module:factory asks for your own code: it is imported, also from this folder, and
called."""
LEGEND = "Red: where a change of one cell by {eps:g} can lower the margin most."
HEADER = ("image", "class", "certain", "margin", "least change")


class _Line(NamedTuple):
    """What is proved of a picture."""

    file: str
    label: str
    margin: float
    change: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the table."""
        certain = "yes" if self.margin > 0 else "no"
        return (self.file, self.label, certain, f"{self.margin:.3g}", f"{self.change:.4f}")


def main(args: Sequence[str]) -> None:
    """Run `dmn certify`.

    Args:
        args: The command line, from the command's name on.
    """
    certify(**vars(_parser().parse_args(args[1:])))


def _parser() -> Parser:
    parser = Parser(
        prog="dmn certify",
        usage="dmn certify IMAGE [IMAGE ...] --model MODEL [--OPTION VALUE ...]",
        description=DESCRIPTION,
    )
    add_images_and_model(parser)
    add = parser.add_argument
    add("--eps", type=number, default=0.01, help="Largest change of a pixel, up to 1: to anything.")
    add("--mask", help="Picture that is white where pixels may change; by default everywhere.")
    add("--target", help="Class, by name or index; by default the predicted one.")
    add("--cell", type=int, default=4, help="Side of the map's cells in pixels.")
    add("--invert", action="store_true", help="Turn dark on white into white on dark first.")
    add("--out", default="certified.png", help="PNG file to save.")
    return parser


def certify(
    images: Sequence[str],
    model: str,
    weights: str | None = None,
    eps: float = 0.01,
    mask: str | None = None,
    target: str | None = None,
    cell: int = 4,
    invert: bool = False,
    out: str = "certified.png",
    **described: Any,
) -> None:
    """Print what is certain of pictures, and save a panel of maps.

    Args:
        images: Picture files.
        model: What `dmn.load` takes.
        weights: Likewise.
        eps: Largest change of a pixel, of values in [0, 1].
        mask: Picture that is white where pixels may change.
        target: Class, by name or index; the predicted one by default.
        cell: Side of the map's cells in pixels.
        invert: Turn dark on white into white on dark first.
        out: PNG file to save.
        **described: Further options of `dmn.load`: num_classes, size, mean, std, classes.

    Raises:
        UnreadableImageError: names the file.
        UnknownNameError: names the classes that are close.
        OptionError: names the option that cannot be as it is, and says what can.
        UnsupportedError: lists the operations without a rule, by kind.
    """
    require("--eps", eps, 0, 1)
    require("--cell", cell, 1)
    require_output("--out", out, ".png", [*images, model, weights, mask])
    pictures = [read(file, invert) for file in images]
    region = None if mask is None else read(mask, False)
    network = load(model, weights, **described)
    chosen = None if target is None else find_target(network, target)
    in_pixels = _on_pixels(network)
    lines: list[_Line] = []
    columns: dict[str, list[Tensor]] = {"image": [], "map": []}
    for file, picture in zip(images, pictures, strict=True):
        x = network.restore(network.check(network.transform(picture)[None])).clamp(0, 1)
        changing = None if region is None else _mask(region, x, str(mask))
        with kinds_counted():
            line, found = _certify(network, in_pixels, x, changing, chosen, eps, cell)
        lines.append(line._replace(file=file))
        columns["image"].append(1 - x[0] if invert else x[0])
        columns["map"].append(overlay(x, found)[0])
        if changing is not None:
            columns.setdefault("region", []).append(overlay(x, changing.float())[0])
    _print(lines)
    rows = [
        "\n".join([Path(line.file).name, line.label, f"certain to {line.change:.4f}"])
        for line in lines
    ]
    done = "replaced" if os.path.exists(out) else "saved"
    rows = list(map(plain_lines, rows))
    write_whole(out, png(panel(columns, rows, LEGEND.format(eps=eps), CELL)))
    print(plain(f"{done} {out}"))


@torch.no_grad()
def _certify(
    network: Network,
    in_pixels: nn.Module,
    x: Tensor,
    mask: Tensor | None,
    chosen: int | None,
    eps: float,
    cell: int,
) -> tuple[_Line, Tensor]:
    """Return what is proved of a picture, and its map."""
    logits = predict_logits(in_pixels, x)
    target = logits.argmax(1) if chosen is None else torch.tensor([chosen])
    margin = guaranteed_margin(in_pixels, *box(x, eps, mask), target)
    change = least_change(in_pixels, x, target, mask)
    found = certified_map(in_pixels, x, target, eps, cell)
    index = int(target)
    label = class_label(network.label(index), index)
    return _Line("", label, float(margin), float(change)), found


def _on_pixels(network: Network) -> nn.Module:
    """Return a network that takes images in [0, 1], and normalises them itself."""
    if network.size is None or not (network.mean or network.std or network.bgr):
        return network.ordinary
    channels = network.size[0]
    mean, std = per_channel(network.mean, 0.0), per_channel(network.std, 1.0)
    scale = (1 / std).flatten().expand(channels)
    normalise = nn.Conv2d(channels, channels, 1)
    identity = torch.eye(channels)
    weight = torch.diag(scale) @ (identity.flip(0) if network.bgr else identity)
    normalise.weight.data = weight[..., None, None].contiguous()
    assert normalise.bias is not None
    normalise.bias.data = -mean.flatten().expand(channels) * scale
    return nn.Sequential(normalise, network.ordinary).eval()


def _mask(picture: Any, x: Tensor, file: str) -> Tensor:
    """Return a mask, cropped as the images are: where it is white."""
    mask = preprocess((1, *x.shape[-2:]), None, None, picture)[None] > 0.5
    if not bool(mask.any()):
        raise DataError(f"--mask {file} is nowhere white in its {size_text(x.shape[1:])} pixels")
    return mask


def _print(lines: Sequence[_Line]) -> None:
    """Print a table."""
    rows = [HEADER, *(line.cells for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print(plain("  ".join(padded).rstrip()))
