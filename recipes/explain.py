"""Explain what a trained network sees in your own pictures.

The core of `dmn explain`, as a program to read and to change:

    python recipes/explain.py cat.jpg dog.jpg --model resnet18 --weights DEFAULT
    python recipes/explain.py digit.png --model runs/mnist/version_0 --layer stage2_1
"""

import argparse
from collections.abc import Sequence

import torch

from dmn.explain import Explainer, SplitCAM, SplitLRP
from dmn.explain.layers import last_stage
from dmn.explain.target import probabilities
from dmn.hub import load
from dmn.io.options import require_output
from dmn.io.pictures import read_picture
from dmn.split import as_pair
from dmn.viz.panels import overlay, panel


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", help="picture files to explain")
    parser.add_argument(
        "--model",
        required=True,
        help="what to explain: the folder of a run, a shipped network, or a name of torchvision's",
    )
    parser.add_argument(
        "--weights",
        help="for a name of torchvision's: DEFAULT, or a file of weights (default: random weights)",
    )
    parser.add_argument("--layer", help="layer at which SplitCAM reads (default: a late one)")
    parser.add_argument(
        "--out", default="explained.png", help="PNG file to write (default: %(default)s)"
    )
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Load, classify, explain, draw."""
    options = parse(args)
    require_output("--out", options.out, ".png", options.images)
    network = load(options.model, options.weights)
    x = torch.stack([network.transform(read_picture(file)) for file in options.images])
    with torch.no_grad():
        confidence, predicted = probabilities(network.model(x)).max(dim=1)
    row_titles = [
        f"{network.classes[label]}\n{probability:.0%}"
        for label, probability in zip(predicted, confidence, strict=True)
    ]

    # A trained difference of monotone networks is a pair; any other network is split into one.
    pair = as_pair(network.model, x[:1])
    alpha: float | None = 0.48
    layer = options.layer
    if network.is_pair:
        alpha, layer = None, layer or last_stage(network.model, x[:1]).removeprefix("h.net.")
    explainers: dict[str, Explainer] = {
        "evidence": SplitCAM(pair, layer, "g", "p", alpha=alpha),
        "counter-evidence": SplitCAM(pair, layer, "h", "p", alpha=alpha),
        "relevance": SplitLRP(pair),
    }

    images = network.restore(x)
    pictures = {"image": images}
    for name, explainer in explainers.items():
        maps = explainer(x, predicted)  # (B, 1, H, W); positive speaks for the class
        pictures[name] = overlay(images, maps, against=name == "counter-evidence")
    caption = "Red speaks for the class, blue against it."
    panel(pictures, row_titles, caption, cell=224).save(options.out)
    print(f"see {options.out}")


if __name__ == "__main__":
    main()
