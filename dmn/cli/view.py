"""`dmn view`: a page on which one asks a network why, of images and of what one draws."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dmn import data
from dmn.cli.messages import kinds_counted
from dmn.cli.networks import add_network_options
from dmn.cli.parser import Parser, number
from dmn.data import as_batch
from dmn.errors import MissingPackageError, NotEqualError, OptionError, UnsupportedError
from dmn.explain import Explanation, find_method, list_methods
from dmn.hub import Network, load
from dmn.io.class_paths import class_paths, instantiate
from dmn.io.options import require, require_output
from dmn.io.pictures import read_picture
from dmn.io.text import plain
from dmn.view import write_page
from dmn.view.runtime import browser_runtime

DESCRIPTION = """\
Write a page on which one asks a network why: of images, and of what one draws.

  dmn view mnist_paired                                 draw a digit, and see what speaks for it
  dmn view scenes_front --method SplitLRP SplitCAM
  dmn view resnet18 cat.jpg dog.jpg --weights DEFAULT --alpha 0.3 0.4 0.5
  dmn view runs/mnist/version_0 digit.png --live false
  dmn view mnist_paired --explanations digit_IntegratedGradients.zip

Open the file in a browser. It holds all that it needs, and asks nothing of the network. Choose the
class, a rival, evidence or counter-evidence, and point at the map for its values. Without images of
yours it shows the first test images of the data that the network was trained on.
Explanations that `dmn explain --save` has saved may be of any method.
The network itself runs in the page, by onnxruntime-web, which is fetched from npm once (33 MB).
Where it cannot be fetched or exported, and with --live false, the page shows the images only.
It needs more packages: pip install 'dmn[compare,onnx]'.
A name package.module:factory asks for your own code: it is imported, also from this folder, and
called."""
IMAGES = 10  # that are shown where none are named


def main(args: Sequence[str]) -> None:
    """Run `dmn view`.

    Args:
        args: The command line, from the command's name on.
    """
    options = vars(_parser().parse_args(list(args[1:])))
    view(**{**options, "live": options["live"] == "true"})


def _parser() -> Parser:
    parser = Parser(
        prog="dmn view",
        usage="dmn view NETWORK [IMAGE ...] [--OPTION VALUE ...]",
        description=DESCRIPTION,
    )
    add = parser.add_argument
    add("network", help="Any that `dmn explain --model` takes.")
    add("images", nargs="*", metavar="IMAGE", help="Picture files of any kind and size.")
    add("--weights", help="A file, or a name such as DEFAULT.")
    add_network_options(parser)
    names = ", ".join(spec.name for spec in list_methods("split"))
    add("--method", nargs="+", default=["SplitLRP"], help=f"{names}, in any case.")
    add(
        "--explanations",
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="Saved explanations of this network, which are shown, too.",
    )
    add("--layer", help="Where to read; by default as `dmn explain` does.")
    add(
        "--alpha",
        nargs="+",
        type=number,
        default=[],
        metavar="X",
        help="Shifts of a split network, 0 to 0.5, which a slider chooses from.",
    )
    add("--top", type=int, default=10, help="Most probable classes of each image to explain.")
    add("--live", choices=["true", "false"], default="true", help="Run the network in the page.")
    add("--out", default="view.html", help="HTML file to save.")
    return parser


def view(
    network: str,
    images: Sequence[str] = (),
    weights: str | None = None,
    method: Sequence[str] = ("SplitLRP",),
    layer: str | None = None,
    alpha: Sequence[float] = (),
    top: int = 10,
    live: bool = True,
    out: str = "view.html",
    explanations: Sequence[str] = (),
    **described: Any,
) -> None:
    """Write the page, and say where it is.

    Args:
        network: What `dmn.load` takes.
        images: Picture files; test images of the network's data if nothing else is named.
        weights: As of `dmn.load`.
        method: Names of split methods, in any case.
        layer: Where to read the network.
        alpha: Shifts of a split network.
        top: How many classes of each image are explained.
        live: Whether the network runs in the page, if it can.
        out: HTML file to save.
        explanations: Saved explanations of this network, .zip files or folders.
        **described: Further options of `dmn.load`: num_classes, size, mean, std, classes.

    Raises:
        UnreadableImageError: names the file.
        BundleError: if a saved explanation is missing, cut short or changed; names the member.
        DataError: if an explanation is of another network, or images differ in size.
        OptionError: names the option that cannot be as it is, and says what can.
        UnsupportedError: lists what cannot be split.
    """
    for shift in alpha:
        require("--alpha", shift, 0, 0.5)
    require("--top", top, 1)
    require_output("--out", out, ".html", [network, weights, *images, *explanations])
    methods = [find_method(name, "split").name for name in method]
    pictures = [read_picture(file) for file in images]
    saved = {file: Explanation.load(file) for file in explanations}
    loaded = load(network, weights, **described)
    seen = dict(zip(images, map(loaded.transform, pictures), strict=True))
    shown = seen if seen or saved else _test_images(loaded)
    done = "replaced" if os.path.exists(out) else "saved"
    options: dict[str, Any] = {
        "layer": layer,
        "alphas": alpha,
        "top": top,
        "explanations": saved,
    }
    with kinds_counted():
        if not (live and _write_live(loaded, out, shown, methods, options)):
            write_page(loaded, out, shown, methods, **options)
    print(plain(f"{done} {out}: {os.path.getsize(out) / 2**20:.1f} MiB; open it in a browser"))


def _write_live(
    network: Network,
    out: str,
    images: dict[str, Tensor],
    methods: Sequence[str],
    options: dict[str, Any],
) -> bool:
    """Write a page in which the network runs; say why if that cannot be."""
    try:
        write_page(network, out, images, methods, **options, runtime=browser_runtime())
    except (MissingPackageError, UnsupportedError, NotEqualError) as error:
        print(plain(f"the network does not run in the page: {error.lines[0]}"))
        return False
    return True


def _test_images(network: Network) -> dict[str, Tensor]:
    """Return the first test images of the data that a network was trained on."""
    spec = network.card.get("data")
    if not spec:
        raise OptionError(f"{network.name} brings no images; name some picture files")
    module = instantiate(spec, class_paths(data))
    module.prepare_data()
    module.setup("test")
    batch = as_batch(next(iter(module.test_dataloader())))
    names = map(network.label, batch.label.tolist())
    return {
        f"test image {place}, class {name}": image
        for place, (name, image) in enumerate(zip(names, batch.image, strict=True), 1)
        if place <= IMAGES
    }
