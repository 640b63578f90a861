"""Draw the README's pictures: shipped networks explaining test images that nobody selected.

    python recipes/pictures.py --out docs/pictures

They are the first test images. Without --out, the pictures go to runs/pictures.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.data import MNIST, Scenes
from dmn.explain import SplitCAM, find_method
from dmn.explain.layers import last_stage
from dmn.hub import load
from dmn.io.writing import write_whole
from dmn.nn import Pair, Stream
from dmn.split import as_pair
from dmn.viz.panels import overlay, panel, png

METHODS = (
    *("SplitLRP", "SplitCAM", "LRPGamma", "LRPEpsilonPlus", "GuidedBackprop"),
    *("IntegratedGradients", "LayerCAM", "GradCAM"),
)
STREAMS: dict[str, Stream] = {"g: for": "g", "h: against": "h", "g - h": "g-h"}  # by title


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/pictures"),
        help="folder to write to (default: %(default)s)",
    )
    return parser.parse_args(args)


def load_with_images(name: str, data: MNIST, count: int) -> tuple[Pair, Tensor, Tensor]:
    """Return a shipped network, and the first test images with their classes, which take turns."""
    data.setup("test")
    batch = next(iter(data.test_dataloader())).take(slice(count))
    return as_pair(load(name).model, batch.image[:1]), batch.image, batch.label


def evidence(
    pair: Pair, x: Tensor, target: Tensor, layer: str, contrast: bool
) -> dict[str, Tensor]:
    """Colour what g, h and their difference say for classes at a layer; pictures by title."""
    pictures = {}
    for title, stream in STREAMS.items():
        maps = SplitCAM(pair, layer, stream, "p", contrast=contrast)(x, target)
        pictures[title] = overlay(x, maps, against=stream == "h")
    return pictures


def digits() -> Image.Image:
    """Draw the evidence for four digits: of the ink, and of the last stage in contrast."""
    pair, x, labels = load_with_images("mnist_paired", MNIST(), 4)
    with torch.no_grad():
        predicted = pair(x).argmax(dim=1)
    at_the_ink = evidence(pair, x, predicted, "input", contrast=False)
    at_the_last_stage = evidence(pair, x, predicted, "stage3_1", contrast=True)
    columns = {
        "image": 1 - x,
        **at_the_ink,
        " ": torch.ones_like(x),  # an empty column sets the two groups apart
        # Titles of columns are distinct: these end in a space, which is not drawn.
        **{f"{title} ": pictures for title, pictures in at_the_last_stage.items()},
    }
    rows = [
        f"true {label}\nsaid {prediction}"
        for label, prediction in zip(labels, predicted, strict=True)
    ]
    return panel(columns, rows)


def scenes() -> Image.Image:
    """Draw what speaks for the class in seven scenes, at the pixels, through the front."""
    pair, x, labels = load_with_images("scenes_front", Scenes(), 7)
    maps = SplitCAM(pair, "input", stream="g", part="p", contrast=True)(x)
    pictures = torch.stack([x, overlay(x, maps)], dim=1)  # (B, 2, 3, H, W)
    columns = {
        str(int(label)): scene_and_evidence
        for label, scene_and_evidence in zip(labels, pictures, strict=True)
    }
    return panel(columns, ["scene", "evidence"], "Red speaks for the class, blue against it.", 160)


def compared() -> Image.Image:
    """Draw what eight methods, as they come, say of the true class of four scenes to a VGG16."""
    pair, x, labels = load_with_images("scenes_vgg16", Scenes(), 4)
    model = load("scenes_vgg16").model
    columns: dict[str, Tensor] = {"image": x}
    for name in METHODS:
        spec = find_method(name)
        options = {"layer": last_stage(model, x)} if spec.needs_layer else {}
        explainer = spec.factory(pair) if spec.kind == "split" else spec.factory(model, **options)
        columns[name] = overlay(x, explainer(x, labels))
    rows = [str(int(label)) for label in labels]
    return panel(columns, rows, "Red speaks for the class, blue against it.", 120)


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "heatmaps": digits,
    "scenes_front": scenes,
    "compared": compared,
}


def main(args: Sequence[str] | None = None) -> None:
    """Draw and save each picture."""
    options = parse(args)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        write_whole(options.out / f"{name}.png", png(draw()))
        print(f"see {options.out / name}.png")


if __name__ == "__main__":
    main()
