"""`dmn convert`: a trained classifier, canonized and split, with its certificate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dmn.canonize import canonize, folding_report
from dmn.cli.networks import add_network_options
from dmn.cli.parser import Parser, number
from dmn.errors import OptionError, UnsupportedError
from dmn.hub import Network, load, save_converted
from dmn.hub.converted import refuse_converted
from dmn.hub.factory import is_factory
from dmn.hub.folders import WEIGHTS
from dmn.hub.huggingface import folder_of, is_huggingface
from dmn.io.options import require, require_output
from dmn.io.pictures import read_picture
from dmn.io.resources import CHECKPOINTS, is_path
from dmn.io.text import plain, plain_lines
from dmn.nn import Pool
from dmn.split import split

DESCRIPTION = """\
Convert a trained classifier into equal forms that can be explained better.

  dmn convert resnet18 --weights DEFAULT               split, saved as resnet18_split.safetensors
  dmn convert vgg16 --weights vgg16.pth --form both    without BatchNorm first, then split
  dmn convert densenet121 --form canonized --images cat.jpg dog.jpg
  dmn convert resnet50 --pool convex --theta 1         the literal split, monotone and convex
  dmn convert scenes_resnet18                          an ordinary network that is shipped
  dmn convert runs/mine/version_0                      one that you have trained
  dmn convert nets:make --weights mine.pth --size 3 64 64    of your own code, nets.py
  dmn convert timm:resnet10t --weights DEFAULT         one of timm's classifiers
  dmn convert hf:FOLDER                                of Hugging Face, saved by save_pretrained

A split network is a difference of two monotone ones and the same function bit for bit; a canonized
one has no BatchNorm, and is the same but for rounding. What was proved is printed, and saved with
it. `dmn explain --model` and `dmn compare` take either file, `dmn finetune --init_from` a split
one. Networks with operations that have no such form are refused, with the list of these.
A name package.module:factory asks for your own code: it is imported, also from this folder, and
called."""

Form = Literal["split", "canonized", "both"]


def main(args: Sequence[str]) -> None:
    """Run `dmn convert`.

    Args:
        args: The command line, from the command's name on.
    """
    convert(**vars(_parser().parse_args(list(args[1:]))))


def _parser() -> Parser:
    parser = Parser(
        prog="dmn convert",
        usage="dmn convert NAME [--OPTION VALUE ...]",
        description=DESCRIPTION,
    )
    add = parser.add_argument
    add("name", help="torchvision's, timm:NAME, hf:FOLDER, a shipped one, run, or one's own.")
    add("--weights", help="A file, or a name such as DEFAULT; else random, of hf: the folder's.")
    add_network_options(parser)
    add("--form", choices=get_args(Form), default="split", help="Both: canonized, then split.")
    add("--out", help="File to save it in; by default NAME_FORM.safetensors.")
    add("--pool", choices=get_args(Pool), default="winner", help="Form of max pooling.")
    add("--theta", type=number, default=0.0, help="Share of min(p, n) that is kept, 0 to 1.")
    add("--threshold", type=number, default=0.0, help="Recentre only where p + n is above it.")
    add("--images", nargs="+", metavar="FILE", help="To certify on; by default random ones.")
    return parser


def convert(
    name: str,
    weights: str | None = None,
    form: Form = "split",
    out: str | None = None,
    pool: Pool = "winner",
    theta: float = 0.0,
    threshold: float = 0.0,
    images: Sequence[str] | None = None,
    num_classes: int | None = None,
    **described: Any,
) -> None:
    """Convert a classifier, and save it.

    Args:
        name: A classifier of torchvision (vgg16, resnet18, ...), timm:NAME, hf:FOLDER, a shipped
            network, a run's folder, a file with its card, or package.module:factory.
        weights: A name such as DEFAULT, a file, or nothing for random (of hf:, the folder's).
        form: Split, canonized (without BatchNorm), or canonized and then split.
        out: File to save it in; <name>_<form>.safetensors by default, beside the file or folder
            that is converted.
        pool: Form of max pooling in a split network.
        theta: Share of min(p, n) kept after each activation, in [0, 1].
        threshold: Recentre only where p + n exceeds it.
        images: Images for the certificate; random ones by default.
        num_classes: Outputs, if not as many as the weights have.
        **described: Further options of `dmn.load`: size, mean, std, classes.

    Raises:
        UnsupportedError: if it is a difference network, or converted already.
        OptionError: names the option that cannot be as it is, and says what can.
    """
    require("--threshold", threshold, 0)
    require("--num_classes", num_classes, 1)
    target = Path(out or _target(name, form))
    read = [name, weights, *(images or ()), str(CHECKPOINTS / f"{name}.safetensors")]
    read += [os.path.join(folder_of(name), WEIGHTS)] if is_huggingface(name) else []
    require_output("--out", str(target), ".safetensors", read)
    original = _load(name, weights, num_classes=num_classes, **described)
    x = original.check(_images(original, images))
    network: Any = original.model if form == "split" else canonize(original.model, x)
    if form != "split":
        print(f"canonized: {_difference(original.model, x)}")
        print(plain_lines(str(folding_report(network))))
    if form != "canonized":
        network = split(network, x, pool=pool, theta=theta, threshold=threshold)
        print(plain_lines(str(network.certificate(x))))
    done = "replaced" if os.path.exists(target) else "saved"
    save_converted(network, target, original=original, canonized=form != "split")
    weights_from = f"{original.source} weights, {len(original.classes) or 'unnamed'} classes"
    print(plain(f"{done} {target}: {weights_from}"))


def _target(name: str, form: Form) -> str:
    """Name the file of a network; beside it, if that is a file or folder."""
    if is_huggingface(name):
        return f"{os.path.normpath(folder_of(name))}_{form}.safetensors"
    if is_factory(name):  # or timm's
        return f"{name.partition(':')[2]}_{form}.safetensors"
    stem = os.path.splitext(os.path.normpath(name))[0] if is_path(name) else name
    return f"{stem}_{form}.safetensors"


def _load(name: str, weights: str | None, **options: Any) -> Network:
    network = load(name, weights, **options)
    refuse_converted(network)
    if network.is_pair:
        raise UnsupportedError(
            f"{name} is a difference g - h as it is; see `dmn explain IMAGE --model {name}`"
        )
    return network


def _images(network: Network, files: Sequence[str] | None) -> Tensor:
    """Read images as the network wants them, or draw some of their size."""
    pictures: list[Any] = [read_picture(file) for file in files or ()] or _drawn()
    inputs = [network.transform(picture) for picture in pictures]
    if len({x.shape for x in inputs}) > 1:
        raise OptionError("--images are of several sizes; say by --size what the network takes")
    return torch.stack(inputs)


def _drawn() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, 256, 256), generator=random, dtype=torch.uint8) for _ in "ab"]


def _difference(original: nn.Module, x: Tensor) -> str:
    exact, x = deepcopy(original).double(), x.double()
    with torch.no_grad():
        logits = exact(x)
        size = logits.abs().max().clamp(min=torch.finfo(torch.float64).tiny)  # may all be 0
        largest = float((canonize(exact, x)(x) - logits).abs().max() / size)
    return f"largest relative |f - original| {largest:.1g} in float64"
