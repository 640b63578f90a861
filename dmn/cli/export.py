"""`dmn export`: a network and its explanation as one ONNX graph, compared with torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dmn.cli.messages import kinds_counted
from dmn.cli.networks import add_network_options
from dmn.cli.parser import CONTRASTS, Parser, number
from dmn.errors import OptionError
from dmn.explain import find_method, list_methods
from dmn.hub import Network, load
from dmn.io.options import require, require_output
from dmn.io.pictures import read_picture
from dmn.io.text import plain, plain_lines
from dmn.nn import Stream
from dmn.onnx import export as export_network

DESCRIPTION = """\
Write a network and its explanation as one ONNX graph: images in, logits and maps out.

  dmn export mnist_paired --onnx digits.onnx             the predicted class, by SplitLRP
  dmn export mnist_paired --onnx digits.onnx --stream all         maps of g, h and g - h
  dmn export resnet18 --weights DEFAULT --onnx resnet18.onnx --pixels --target input
  dmn export scenes_resnet18 --onnx scenes.onnx --method SplitCAM --layer layer3
  dmn export vgg16_split.safetensors --onnx vgg16.onnx --images cat.jpg dog.jpg

The graph has opset 18, takes any number of images of one size, and needs neither torch nor dmn;
see recipes/serve_onnx.py. Names of classes and all settings are in its metadata. With --pixels it
takes images in [0, 1], and normalises them; with --target input it takes classes, too. It is run by
onnxruntime, and compared with torch, before it is written: on random images, or on --images.
It needs more packages: pip install 'dmn[onnx]'.
A name package.module:factory asks for your own code: it is imported, also from this folder, and
called."""

Targets = Literal["predicted", "input"]


def main(args: Sequence[str]) -> None:
    """Run `dmn export`.

    Args:
        args: The command line, from the command's name on.
    """
    export(**vars(_parser().parse_args(list(args[1:]))))


def _parser() -> Parser:
    parser = Parser(
        prog="dmn export",
        usage="dmn export NETWORK --onnx FILE [--OPTION VALUE ...]",
        description=DESCRIPTION,
    )
    add = parser.add_argument
    add("network", help="Any that `dmn explain --model` takes.")
    add("--onnx", required=True, metavar="FILE", help="File to write, .onnx.")
    add("--weights", help="A file, or a name such as DEFAULT.")
    add_network_options(parser)
    names = ", ".join(spec.name for spec in list_methods("split"))
    add("--method", default="SplitLRP", help=f"{names}, in any case.")
    add("--layer", help="Where to read; by default the image, of SplitCAM a late layer.")
    add(
        "--stream",
        choices=[*get_args(Stream), "all"],
        help="Map to return; by default the method's own.",
    )
    add("--target", choices=get_args(Targets), default="predicted", help="Class to explain.")
    add("--alpha", type=number, help="Shift of split networks, 0 to 0.5.")
    add("--contrast", choices=CONTRASTS, help="Leave out what speaks for all classes alike.")
    add("--pixels", action="store_true", help="Take images in [0, 1], and normalise them inside.")
    add("--images", nargs="+", metavar="FILE", help="To compare on; by default random ones.")
    return parser


def export(
    network: str,
    onnx: str,
    weights: str | None = None,
    method: str = "SplitLRP",
    layer: str | None = None,
    stream: Stream | Literal["all"] | None = None,
    target: Targets = "predicted",
    alpha: float | None = None,
    contrast: str | None = None,
    pixels: bool = False,
    images: Sequence[str] | None = None,
    **described: Any,
) -> None:
    """Export a network, and print how far the file is from torch.

    Args:
        network: What `dmn.load` takes.
        onnx: File to write.
        weights: As of `dmn.load`.
        method: Name of a method of ours, in any case.
        layer: Where to read the network.
        stream: Map to return, or "all".
        target: Whether the graph explains the predicted class, or takes one as an input.
        alpha: Shift, on split networks.
        contrast: Leave out what speaks for all classes alike.
        pixels: Take images in [0, 1].
        images: Picture files to compare on.
        **described: Further options of `dmn.load`: num_classes, size, mean, std, classes.

    Raises:
        UnknownNameError: for a method that cannot be exported; names those that can.
        UnsupportedError: lists what cannot be exported.
        OptionError: names the option that cannot be as it is, and says what can.
    """
    require("--alpha", alpha, 0, 0.5)
    require_output("--onnx", onnx, ".onnx", [network, weights, *(images or ())])
    find_method(method, "split")
    pictures = [read_picture(file) for file in images or ()]
    loaded = load(network, weights, **described)
    options: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    if contrast is not None:
        options["contrast"] = CONTRASTS[contrast]
    done = "replaced" if os.path.exists(onnx) else "saved"
    with kinds_counted():
        parity = export_network(
            loaded,
            onnx,
            method,
            layer,
            streams=get_args(Stream) if stream == "all" else stream and (stream,),
            target=target == "input",
            pixels=pixels,
            images=_stack(loaded, pictures) if pictures else None,
            **options,
        )
    print(plain_lines(str(parity or "onnxruntime is not installed: not compared with torch")))
    print(plain(f"{done} {onnx}: {os.path.getsize(onnx) / 2**20:.1f} MiB"))


def _stack(network: Network, pictures: Sequence[Any]) -> Tensor:
    inputs = [network.transform(picture) for picture in pictures]
    if len({x.shape for x in inputs}) > 1:
        raise OptionError("--images are of several sizes; say by --size what the network takes")
    return network.check(torch.stack(inputs))
