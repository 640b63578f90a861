"""`dmn explain`: what in a person's own pictures speaks for a class, by many methods at once."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.cli.messages import kinds_counted
from dmn.cli.networks import add_images_and_model
from dmn.cli.parser import Parser, number
from dmn.errors import OptionError, UnknownNameError
from dmn.explain import Explainer, MethodSpec, find_method, list_methods
from dmn.explain.layers import last_stage
from dmn.explain.target import probabilities
from dmn.hub import Network, load
from dmn.hub.cards import MOST_CLASSES
from dmn.io.options import require, require_output
from dmn.io.pictures import Picture, read_picture
from dmn.io.text import plain
from dmn.io.writing import write_whole
from dmn.nn import Contrast, Pair, Stream, predict_logits
from dmn.split import FrontAdapter
from dmn.viz.panels import overlay, panel, png
from dmn.viz.typeface import class_label

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
  dmn explain cat.jpg --model resnet18 --contrast             why this class rather than any other?

Each picture is cropped to what the network takes. The most probable classes are printed, and a
panel is saved: a row a picture, a column a method; red speaks for the class, blue against it.
A trained difference network explains itself, by g, h and g - h; any other is split first. One that
has a front is read at the image; --layer front reads what the front makes of it.
A name package.module:factory asks for your own code: it is imported, also from this folder, and
called."""
METHODS = list_methods("split", "post-hoc")
FEATURED = tuple(spec.name for spec in METHODS if spec.featured)
WITHOUT_RULES = ("GradCAM", "IntegratedGradients", "Occlusion")  # which explain any network
CONTRASTS: dict[str, Contrast] = {
    "false": False,
    "true": True,
    "mean": "mean",
    "clrp": "clrp",
    "sglrp": "sglrp",
}
ALPHA = find_method("SplitCAM").defaults["alpha"]
CELL = 224  # pixels a side
LINE = 24  # characters before a row
LEGEND = "Red speaks for the class, blue against it."


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
    add("--target", help="Class to explain, by name or index; by default the predicted one.")
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
    add("--top", type=int, default=3, help="Classes to print.")
    add("--invert", action="store_true", help="Turn dark on white into white on dark first.")
    add("--out", default="explained.png", help="PNG file to save.")
    add("--maps", help="File to save the maps in as well, as numbers: .npz, of NumPy.")
    return parser


def explain(
    images: Sequence[str],
    model: str,
    weights: str | None = None,
    method: Sequence[str] | None = None,
    layer: str | None = None,
    target: str | None = None,
    stream: Stream | None = None,
    alpha: float | None = None,
    contrast: Contrast | None = None,
    top: int = 3,
    invert: bool = False,
    out: str = "explained.png",
    maps: str | None = None,
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
        stream: Of split methods; all three of trained pairs by default, g of split networks.
        alpha: Shift, on split networks.
        contrast: Leave out what speaks for all classes alike; a form that the methods take.
        top: Classes to print.
        invert: Turn dark on white into white on dark first.
        out: PNG file to save.
        maps: File to save the maps in, as NumPy reads them: an array (N, C, H, W) for each column
            of the panel, the images among them, and the explained classes (N,) as "target".
        **described: Further options of `dmn.load`: num_classes, size, mean, std, classes.

    Raises:
        UnreadableImageError: names the file.
        UnknownNameError: names the methods that there are, or the classes that are close; and if
            a class activation map has no layer to be read at.
        OptionError: names the option that cannot be as it is, and says what can.
        UnsupportedError: lists the operations that a method has no rule for, by kind, and names
            methods that need no rules.
    """
    require("--top", top, 1)
    require("--alpha", alpha, 0, 0.5)
    require_output("--out", out, ".png", [*images, model, weights])
    if maps is not None:
        require_output("--maps", maps, ".npz", [*images, model, weights, out])
    specs = [find_method(name, "split", "post-hoc") for name in method or FEATURED]
    pictures = [read(file, invert) for file in images]
    network = load(model, weights, **described)
    chosen = None if target is None else find_target(network, target)
    if network.source == "random":
        print(plain(f"{model} has random weights, and knows nothing; give it some by --weights"))
    inputs = [network.check(network.transform(picture)[None]) for picture in pictures]
    if maps is not None and len({x.shape for x in inputs}) > 1:
        raise OptionError("--maps takes pictures of one size, which --size makes them")
    explainers = _explainers(network, inputs[0], specs, layer, stream, alpha, contrast)
    why = [] if chosen is None else [f"why {class_label(str(target), chosen)}?"]
    heatmaps: dict[str, list[Tensor]] = {title: [] for title in explainers}
    shown, targets, rows = [], [], []
    for file, x in zip(images, inputs, strict=True):
        likely = _classify(network, x, top)
        printed = [f"{network.label(index)} {share}" for index, share in likely.items()]
        print(plain(f"{file}: {', '.join(printed)}"))
        targets.append(next(iter(likely)) if chosen is None else chosen)
        drawn = [f"{class_label(network.label(i), i)} {share}" for i, share in likely.items()]
        lines = [Path(file).name, *drawn, *why]
        rows.append("\n".join(fill(plain(line), LINE) for line in lines))
        shown.append(network.restore(x))
        for title, explainer in explainers.items():
            heatmaps[title].append(explainer(x, targets[-1]))
    if maps is not None:
        write_whole(maps, _npz({"image": shown, **heatmaps}, targets))
    done = "replaced" if os.path.exists(out) else "saved"
    write_whole(out, png(panel(_columns(shown, heatmaps, invert), rows, LEGEND, CELL)))
    print(plain(f"{done} {out}: {', '.join(explainers)}"))


def read(file: str, invert: bool) -> Picture:
    """Return a picture, its colours turned over if `invert`."""
    picture = read_picture(file)
    return picture.point(lambda value: 255 - value) if invert else picture


def _columns(
    shown: list[Tensor], heatmaps: dict[str, list[Tensor]], invert: bool
) -> dict[str, list[Tensor]]:
    """Return the columns of the panel: the pictures, and each method's heatmaps over them."""
    columns = {"image": [1 - picture[0] if invert else picture[0] for picture in shown]}
    for title, maps in heatmaps.items():
        pairs = zip(shown, maps, strict=True)
        columns[title] = [overlay(*pair, against=title.endswith(" h"))[0] for pair in pairs]
    return columns


def _npz(arrays: dict[str, list[Tensor]], targets: list[int]) -> bytes:
    """Return arrays (1, C, H, W) of each picture as the content of one .npz file."""
    content = io.BytesIO()
    stacked: dict[str, Any] = {
        title: torch.cat(parts).float().cpu().numpy() for title, parts in arrays.items()
    }
    np.savez(content, target=np.array(targets), **stacked)
    return content.getvalue()


def find_target(network: Network, target: str) -> int:
    """Find a class by name or, failing that, by index."""
    named = target.lower() in map(str.lower, network.classes)
    if target.isdecimal() and not named and int(target) < (len(network.classes) or MOST_CLASSES):
        return int(target)
    return network.index(target)


@torch.no_grad()
def _classify(network: Network, x: Tensor, top: int) -> dict[int, str]:
    """Return the most probable classes of an image, the first first, and how probable each is."""
    chances = probabilities(predict_logits(network.model, x))[0]
    shares, indices = (values.tolist() for values in chances.topk(min(top, len(chances))))
    return dict(zip(indices, map(_percent, shares), strict=True))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"


def _other_methods(stage: str) -> str:
    """Name methods that need no rules, for a network that has operations without one.

    Args:
        stage: Where class activation maps read it; at the input they cannot.
    """
    work = [name for name in WITHOUT_RULES if stage != "input" or not find_method(name).needs_layer]
    return f"these and other methods need no rules: --method {' '.join(work)}"


def _explainers(
    network: Network,
    x: Tensor,
    specs: Sequence[MethodSpec],
    layer: str | None,
    stream: Stream | None,
    alpha: float | None,
    contrast: Contrast | None,
) -> dict[str, Explainer]:
    """Make the explainers, by the title of the column each fills."""
    trained, model = network.is_pair and not network.is_split, network.ordinary
    stage = layer or last_stage(model, x).removeprefix("h.net.")
    explainers: dict[str, Explainer] = {}
    with kinds_counted(_other_methods(stage)):
        pair: Any = network.as_pair(x) if any(spec.kind == "split" for spec in specs) else None
        for spec in specs:
            options: dict[str, Any] = {} if contrast is None else {"contrast": contrast}
            if spec.kind == "split":
                options |= _split_options(spec, pair, trained, stage, layer, alpha)
                own = get_args(Stream) if trained else (spec.defaults["stream"],)
                for side in (stream,) if stream else own:
                    explainers[f"{spec.name} {side}"] = spec.factory(pair, stream=side, **options)
                continue
            if spec.needs_layer:
                if stage == "input":
                    raise UnknownNameError(
                        f"{spec.name} reads a layer of the network that holds an image, and the "
                        "last one holds none: name another by --layer, or other methods by --method"
                    )
                options["layer"] = f"g.net.{stage}" if trained else stage
            explainers[spec.name] = spec.factory(model, **options)
    return explainers


def _split_options(
    spec: MethodSpec, pair: Pair, trained: bool, stage: str, layer: str | None, alpha: float | None
) -> dict[str, Any]:
    """Return where and how a split method reads a pair, which may be the network's own."""
    fronted = isinstance(pair, FrontAdapter)
    options = {} if trained else dict(spec.defaults)
    options.pop("stream", None)
    options["layer"] = stage if trained and spec.needs_layer and not fronted else layer
    if fronted:
        options["part"] = "p"
    if alpha is not None and "alpha" in spec.options:
        options["alpha"] = alpha
    return options
