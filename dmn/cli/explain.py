"""`dmn explain`: what in a person's own pictures speaks for a class, by many methods at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from textwrap import fill
from typing import Any, get_args

from torch import Tensor

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.cli.explained import Asked, explain_row, npz, panel_columns, require_save, save_rows
from dmn.cli.messages import kinds_counted
from dmn.cli.networks import add_images_and_model
from dmn.cli.parser import CONTRASTS, Parser, number
from dmn.errors import OptionError
from dmn.explain import MethodSpec, find_method, list_methods
from dmn.hub import Network, load
from dmn.hub.cards import MOST_CLASSES
from dmn.hub.explaining import Method, make_method, stage_of
from dmn.io.options import require, require_output
from dmn.io.pictures import Picture, read_picture
from dmn.io.text import plain
from dmn.io.writing import write_whole
from dmn.nn import Contrast, Stream
from dmn.viz.panels import panel, png

DESCRIPTION = """\
Show what in pictures of your own speaks for a class, and what against it.

  dmn explain cat.jpg --model resnet18 --weights DEFAULT      one of torchvision's classifiers
  dmn explain cat.jpg dog.jpg --model vgg16 --weights vgg16.pth --method SplitCAM LayerCAM
  dmn explain digit.png --model runs/mnist/version_0 --invert a dark digit on white paper
  dmn explain cat.jpg --model resnet18_split.safetensors      what `dmn convert` has written
  dmn explain cat.jpg --model nets:make --weights mine.pth --size 3 64 64 --classes cat dog
  dmn explain cat.jpg --model timm:resnet50 --weights DEFAULT     one of timm's classifiers
  dmn explain cat.jpg --model hf:FOLDER                of Hugging Face, saved by save_pretrained
  dmn explain cat.jpg --model resnet18 --target "tiger cat"   why not another class?
  dmn explain cat.jpg --model resnet18 --target "tiger cat" --against tabby   why a, not b?
  dmn explain cat.jpg --model resnet18 --contrast             why this class rather than any other?
  dmn explain cat.jpg --model resnet18 --top_maps 3           the likeliest classes side by side

Each picture is cropped to what the network takes. The most probable classes are printed, and a
panel is saved: a row a picture, a column a method; red speaks for the class, blue against it.
With --against, red speaks for the class over the other one, and blue for that over the class.
A trained difference network explains itself, by g, h and g - h; any other is split first. One that
has a front is read at the image; --layer front reads what the front makes of it.
A name package.module:factory asks for your own code: it is imported, also from this folder, and
called."""
METHODS = list_methods("split", "post-hoc")
FEATURED = tuple(spec.name for spec in METHODS if spec.featured)
WITHOUT_RULES = ("GradCAM", "IntegratedGradients", "Occlusion")  # which explain any network
ALPHA = find_method("SplitCAM").defaults["alpha"]
CELL = 224  # pixels a side
LEGEND = "Red speaks for the class, blue against it."
LEGEND_AGAINST = "Red speaks for the class over the other one, blue for that over the class."
SIDE_BY_SIDE = "SplitLRP"  # the method that --top_maps shows by default


def main(args: Sequence[str]) -> None:
    """Run `dmn explain`.

    Args:
        args: The command line, from the command's name on.
    """
    options = vars(_parser().parse_args(_before_pictures(args[1:])))
    options["contrast"] = CONTRASTS.get(options["contrast"])
    explain(**options)


def _before_pictures(args: Sequence[str]) -> list[str]:
    """Write `--contrast` in full where none of its values follows, as a picture may."""
    following = [*args[1:], ""]
    return [
        "--contrast=true" if option == "--contrast" and word not in CONTRASTS else option
        for option, word in zip(args, following, strict=True)
    ]


def _parser() -> Parser:
    parser = Parser(
        prog="dmn explain",
        usage="dmn explain IMAGE [IMAGE ...] --model MODEL [--OPTION VALUE ...]",
        description=DESCRIPTION,
        epilog=fill(f"Methods: {', '.join(spec.name for spec in METHODS)}.", 96),
    )
    add_images_and_model(parser)
    add = parser.add_argument
    add("--method", nargs="+", help=f"Any of those below; by default {' '.join(FEATURED)}.")
    add(
        "--layer",
        help="Where to read; by default the image, of CAMs without a front a late layer.",
    )
    _add_classes(parser)
    add("--stream", choices=get_args(Stream), help="Evidence for, against or both; by default all.")
    add(
        "--alpha",
        type=number,
        help=f"Shift of split networks, 0 to 0.5; by default {ALPHA}, of SplitLRP by layer.",
    )
    add(
        "--contrast",
        nargs="?",
        const="true",
        choices=CONTRASTS,
        metavar="FORM",
        help="Leave out what speaks for all classes alike; of relevance also mean, clrp or sglrp.",
    )
    add("--invert", action="store_true", help="Turn dark on white into white on dark first.")
    add("--out", default="explained.png", help="PNG file to save.")
    add("--maps", help="File to save the maps in as well, as numbers: .npz, of NumPy.")
    add(
        "--save",
        metavar="PATH",
        help="Where to save explanations for `dmn show`: one as a .zip, or any number in a folder.",
    )
    return parser


def _add_classes(parser: Parser) -> None:
    """Add the options that choose classes."""
    add = parser.add_argument
    add("--target", help="Class to explain, by name or index; by default the predicted one.")
    add(
        "--against",
        nargs="?",
        const=True,
        metavar="CLASS",
        help="Explain why the class and not this one; alone, not the most probable other.",
    )
    add("--top", type=int, default=3, help="Classes to print.")
    add(
        "--top_maps",
        type=int,
        metavar="K",
        help=f"Explain the K most probable classes side by side, by default by {SIDE_BY_SIDE}.",
    )


def explain(
    images: Sequence[str],
    model: str,
    weights: str | None = None,
    method: Sequence[str] | None = None,
    layer: str | None = None,
    target: str | None = None,
    against: str | bool | None = None,
    stream: Stream | None = None,
    alpha: float | None = None,
    contrast: Contrast | None = None,
    top: int = 3,
    top_maps: int | None = None,
    invert: bool = False,
    out: str = "explained.png",
    maps: str | None = None,
    save: str | None = None,
    **described: Any,
) -> None:
    """Explain pictures, and save a panel of them.

    Args:
        images: Picture files.
        model: What `dmn.load` takes.
        weights: Likewise.
        method: Names of methods, in any case.
        layer: Where to read the network, of methods that have a choice.
        target: Class to explain, by name or index; the predicted one by default.
        against: Class that it is explained against, likewise; True for the most probable other.
        stream: Of split methods; all three of trained pairs by default, g of split networks.
        alpha: Shift, on split networks.
        contrast: Leave out what speaks for all classes alike; a form that the methods take.
        top: Classes to print.
        top_maps: Explain so many of the most probable classes, a column each.
        invert: Turn dark on white into white on dark first.
        out: PNG file to save.
        maps: File to save the maps in, as NumPy reads them: an array (N, C, H, W) for each column
            of the panel, the images among them; the explained classes as "target", (N,) or with
            `top_maps` (N, K); and with `against` the other classes as "rival".
        save: Where to save explanations: a .zip file for a single one, otherwise a folder that gets
            PICTURE_METHOD.zip for each, or PICTURE_METHOD_topK.zip.
        **described: Further options of `dmn.load`: num_classes, size, mean, std, classes.

    Raises:
        UnreadableImageError: names the file.
        UnknownNameError: names the methods that there are, or the classes that are close; and if
            a class activation map has no layer to be read at.
        OptionError: names the option that cannot be as it is, and says what can.
        TargetError: for a class that is its own rival.
        UnsupportedError: lists the operations that a method has no rule for, by kind, and names
            methods that need no rules.
    """
    require("--alpha", alpha, 0, 0.5)
    require("--top", top, 1)
    require("--top_maps", top_maps, 1)
    if top_maps and (target is not None or against is not None):
        raise OptionError("--top_maps is of the likeliest classes; leave out --target, --against")
    specs = _specs(method or ([SIDE_BY_SIDE] if top_maps else FEATURED))
    _require_files(images, [model, weights], out, maps, save, len(specs) * (top_maps or 1))
    pictures = [read(file, invert) for file in images]
    network = load(model, weights, **described)
    chosen = None if target is None else find_target(network, target)
    rival = find_target(network, against) if isinstance(against, str) else against
    if network.source == "random":
        print(plain(f"{model} has random weights, and knows nothing; give it some by --weights"))
    inputs = [network.check(network.transform(picture)[None]) for picture in pictures]
    if maps is not None and len({x.shape for x in inputs}) > 1:
        raise OptionError("--maps takes pictures of one size, which --size makes them")
    options = {"layer": layer, "alpha": alpha, "contrast": contrast}
    methods = _methods(network, inputs[0], specs, stream, options)
    asked = Asked(chosen, rival, top, top_maps or 0)
    seen = zip(images, inputs, strict=True)
    rows = [explain_row(network, file, x, methods, asked) for file, x in seen]
    shown = [network.restore(row.x) for row in rows]
    if maps is not None:
        write_whole(maps, npz(rows, shown, top_maps is not None))
    if save is not None:
        save_rows(network, rows, save)
    columns = panel_columns(rows, shown, invert)
    done = "replaced" if os.path.exists(out) else "saved"
    legend = LEGEND if rival is None else LEGEND_AGAINST
    write_whole(out, png(panel(columns, [row.label for row in rows], legend, CELL)))
    print(plain(f"{done} {out}: {', '.join([*columns][1:])}"))


def _require_files(
    images: Sequence[str],
    read_too: Sequence[str | None],
    out: str,
    maps: str | None,
    save: str | None,
    of_each: int,
) -> None:
    """Refuse names of files that would be replaced, or do not say what they are.

    Args:
        images: The pictures' files.
        read_too: Names of the network and its weights, which may be files.
        out: Where the panel goes.
        maps: Where the numbers go.
        save: Where the explanations go.
        of_each: How many explanations there are of each picture.
    """
    inputs = [*images, *read_too]
    require_output("--out", out, ".png", inputs)
    if maps is not None:
        require_output("--maps", maps, ".npz", [*inputs, out])
    if save is not None:
        require_save(save, images, of_each, [*inputs, out, maps])


def _specs(names: Sequence[str]) -> list[MethodSpec]:
    """Return methods by their names, each once."""
    found = (find_method(name, "split", "post-hoc") for name in names)
    return list({spec.name: spec for spec in found}.values())


def read(file: str, invert: bool) -> Picture:
    """Return a picture, its colours turned over if `invert`."""
    picture = read_picture(file)
    return picture.point(lambda value: 255 - value) if invert else picture


def find_target(network: Network, target: str) -> int:
    """Find a class by name or, failing that, by index."""
    named = target.lower() in map(str.lower, network.classes)
    if target.isdecimal() and not named and int(target) < (len(network.classes) or MOST_CLASSES):
        return int(target)
    return network.index(target)


def _other_methods(stage: str) -> str:
    """Name methods that need no rules, for a network that has operations without one.

    Args:
        stage: Where class activation maps read it; at the input they cannot.
    """
    work = [name for name in WITHOUT_RULES if stage != "input" or not find_method(name).needs_layer]
    return f"these and other methods need no rules: --method {' '.join(work)}"


def _methods(
    network: Network,
    x: Tensor,
    specs: Sequence[MethodSpec],
    stream: Stream | None,
    options: dict[str, Any],
) -> list[Method]:
    """Make the methods, with the options that are given and that they have."""
    stage = stage_of(network, x, options["layer"])
    methods = []
    with kinds_counted(_other_methods(stage)):
        if any(spec.kind == "split" for spec in specs):
            network.as_pair(x)  # what cannot be split is refused before others are made
        for spec in specs:
            known = {"layer", "contrast"} | ({"alpha"} & {*spec.options})
            given = {k: v for k, v in options.items() if v is not None and k in known}
            streams = None if stream is None else (stream,)
            methods.append(make_method(network, x, spec, stage, streams, given))
    return methods
