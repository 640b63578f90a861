"""Draw the README's pictures: shipped networks explaining test images that nobody selected.

    python recipes/pictures.py --out docs

They are the first test images; without --out the pictures go to runs/pictures.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dmn.data import MNIST, Scenes
from dmn.explain import SplitCAM
from dmn.hub.networks import load_network
from dmn.io.writing import write_whole
from dmn.nn import Pair, Stream
from dmn.split import as_pair
from dmn.viz.panels import overlay, panel, png

SIDES: dict[str, Stream] = {"g: for": "g", "h: against": "h", "g - h": "g-h"}


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"), help="folder")
    return parser.parse_args(args)


def shown(name: str, data: MNIST, count: int) -> tuple[Pair, Tensor, Tensor]:
    """Return a shipped network, the first test images, and their classes, which take turns."""
    data.setup("test")
    batch = next(iter(data.test_dataloader())).take(slice(count))
    return as_pair(load_network(name).model, batch.image[:1]), batch.image, batch.label


def digits() -> Image.Image:
    """Draw what g, h and both say of four digits: of the ink, and at the last stage in contrast."""
    pair, x, labels = shown("mnist_paired", MNIST(), 4)
    with torch.no_grad():
        said = pair(x).argmax(dim=1)
    columns = {"image": 1 - x}
    for layer, contrast in (("input", False), ("stage3_1", True)):
        gap = " " * contrast
        columns |= {gap: torch.ones_like(x)} if gap else {}
        for title, stream in SIDES.items():
            maps = SplitCAM(pair, layer, stream, "p", contrast=contrast)(x, said)
            columns[title + gap] = overlay(x, maps, against=stream == "h")
    rows = [f"true {true}\nsaid {said}" for true, said in zip(labels, said, strict=True)]
    return panel(columns, rows)


def scenes() -> Image.Image:
    """Draw what speaks for the class in seven scenes, at the pixels, through the front."""
    pair, x, labels = shown("scenes_front", Scenes(), 7)
    maps = SplitCAM(pair, "input", stream="g", part="p", contrast=True)(x)
    pictures = torch.stack([x, overlay(x, maps)], dim=1)
    columns = {str(int(label)): each for label, each in zip(labels, pictures, strict=True)}
    return panel(columns, ["scene", "evidence"], "Red speaks for the class, blue against it.", 160)


PICTURES: dict[str, Callable[[], Image.Image]] = {"heatmaps": digits, "scenes_front": scenes}


def main(args: Sequence[str] | None = None) -> None:
    """Draw and save each picture."""
    options = parse(args)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        write_whole(options.out / f"{name}.png", png(draw()))
        print(f"see {options.out / name}.png")


if __name__ == "__main__":
    main()
