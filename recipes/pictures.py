"""Draw the pictures of README and site: shipped networks explaining images that nobody selected.

    python recipes/pictures.py --out docs/pictures

They are the first test images. Each picture is drawn for light pages and for dark ones; the folder
methods has one small heatmap for each method. Without --out, the pictures go to runs/pictures.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.data import MNIST, Scenes
from dmn.explain import Explainer, MethodSpec, SplitCAM, find_method, list_methods
from dmn.explain.layers import last_stage
from dmn.hub import load
from dmn.io.writing import write_whole
from dmn.nn import Pair, Stream
from dmn.split import as_pair
from dmn.viz import DARK, LIGHT, Style, overlay, panel, png

METHODS = (
    *("SplitLRP", "SplitCAM", "LRPGamma", "LRPEpsilonPlus", "GuidedBackprop"),
    *("IntegratedGradients", "LayerCAM", "GradCAM"),
)
FOR_TRANSFORMERS = ("AttentionRollout", "GradientAttentionRollout", "AttnLRP")
STREAMS: dict[str, Stream] = {"g: for": "g", "h: against": "h", "g - h": "g-h"}  # by title
STYLES = {  # by what names of files end in; letters can be read where a page shows half the size
    suffix: replace(style, points=30, gap=14, line=46, label=0)
    for suffix, style in {"": LIGHT, "_dark": DARK}.items()
}
Drawing = Callable[[Style], Image.Image]
THUMBNAIL = 128  # pixels: every pixel of a scene is drawn as 2 x 2


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


def ink(x: Tensor, style: Style) -> Tensor:
    """Draw ink in the colour of letters, on the background of a style."""
    paper, letters = (
        torch.tensor(colour).view(3, 1, 1) for colour in (style.background, style.text)
    )
    return paper + x * (letters - paper)


def evidence(pair: Pair, x: Tensor, target: Tensor, layer: str) -> dict[str, Tensor]:
    """Return what g, h and their difference say for classes at a layer; maps by title.

    At other layers than the image, what is said for all classes alike is left out.
    """
    return {
        title: SplitCAM(pair, layer, stream, "p", contrast=layer != "input")(x, target)
        for title, stream in STREAMS.items()
    }


def digits() -> Drawing:
    """Draw the evidence for four digits: of the ink, and of the last stage in contrast."""
    pair, x, labels = load_with_images("mnist_paired", MNIST(), 4)
    with torch.no_grad():
        predicted = pair(x).argmax(dim=1)
    places = {"pixels": "input", "last stage": "stage3_1"}
    maps = {
        f"{place}\n{title}": said
        for place, layer in places.items()
        for title, said in evidence(pair, x, predicted, layer).items()
    }
    rows = [
        f"true {label}\nsaid {prediction}"
        for label, prediction in zip(labels, predicted, strict=True)
    ]

    def draw(style: Style) -> Image.Image:
        columns = {"image": ink(x, style)}
        for title, said in maps.items():
            columns[title] = overlay(x, said, against="against" in title, style=style)
        return panel(columns, rows, cell=224, style=style, legend=True)

    return draw


def scenes() -> Drawing:
    """Draw what speaks for the class in seven scenes, at the pixels, through the front."""
    pair, x, labels = load_with_images("scenes_front", Scenes(), 7)
    maps = SplitCAM(pair, "input", stream="g", part="p", contrast=True)(x)

    def draw(style: Style) -> Image.Image:
        pictures = torch.stack([x, overlay(x, maps, style=style)], dim=1)  # (B, 2, 3, H, W)
        columns = {
            str(int(label)): scene_and_evidence
            for label, scene_and_evidence in zip(labels, pictures, strict=True)
        }
        return panel(columns, ["scene", "evidence"], cell=256, style=style, legend=True)

    return draw


def explainer(spec: MethodSpec, model: nn.Module, pair: Pair, x: Tensor) -> Explainer:
    """Make a method as it comes; one that needs a layer reads the last stage."""
    if spec.kind == "control":
        return spec.factory()
    if spec.kind == "split":
        return spec.factory(pair)
    return spec.factory(model, **({"layer": last_stage(model, x)} if spec.needs_layer else {}))


def compared() -> Drawing:
    """Draw what eight methods, as they come, say of the true class of four scenes to a VGG16."""
    pair, x, labels = load_with_images("scenes_vgg16", Scenes(), 4)
    model = load("scenes_vgg16").model
    maps = {name: explainer(find_method(name), model, pair, x)(x, labels) for name in METHODS}
    rows = [f"digit {label}" for label in labels]

    def draw(style: Style) -> Image.Image:
        columns = {"image": x}
        for name, said in maps.items():
            title = re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", name) if len(name) > 10 else name
            columns[title] = overlay(x, said, style=style)
        return panel(columns, rows, cell=192, style=style, legend=True)

    return draw


def gallery() -> dict[str, Image.Image]:
    """Draw what every method, as it comes, says of the first scene; by name.

    Methods for transformers explain a ViT, the others a ResNet18.
    """
    pair, x, label = load_with_images("scenes_resnet18", Scenes(), 1)
    models = {name: load(name).model for name in ("scenes_resnet18", "scenes_vit")}
    pictures = {"image": x}
    for spec in list_methods():
        model = models["scenes_vit" if spec.name in FOR_TRANSFORMERS else "scenes_resnet18"]
        pictures[spec.name] = overlay(x, explainer(spec, model, pair, x)(x, label))
    return {name.replace("+", "p"): thumbnail(picture[0]) for name, picture in pictures.items()}


def thumbnail(picture: Tensor) -> Image.Image:
    """Draw a picture (3, H, W) small and alone."""
    bare = replace(LIGHT, gap=0, line=0, label=0)
    return panel({"": [picture]}, [""], cell=THUMBNAIL, style=bare)


PICTURES: dict[str, Callable[[], Drawing]] = {
    "heatmaps": digits,
    "scenes_front": scenes,
    "compared": compared,
}


def save(picture: Image.Image, path: Path) -> None:
    """Save a picture, and say where."""
    write_whole(path, png(picture))
    print(f"see {path}")


def main(args: Sequence[str] | None = None) -> None:
    """Draw and save each picture."""
    options = parse(args)
    (options.out / "methods").mkdir(parents=True, exist_ok=True)
    for name, explain in PICTURES.items():
        draw = explain()
        for suffix, style in STYLES.items():
            save(draw(style), options.out / f"{name}{suffix}.png")
    for name, picture in gallery().items():
        save(picture, options.out / "methods" / f"{name}.png")


if __name__ == "__main__":
    main()
