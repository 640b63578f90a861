"""Explain pictures by a file of `dmn export`, without torch and dmn: to deploy, read and change.

    pip install numpy onnxruntime pillow
    python recipes/serve_onnx.py cat.jpg --graph resnet18.onnx
    python recipes/serve_onnx.py digit.png --graph digits.onnx --target 3 --out why_3.png

The file is one of `dmn export`, with any options: its metadata say what it takes and returns. Red
speaks for the class, blue against it; of several maps each is drawn, in one row.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
RED, BLUE = (0.84, 0.15, 0.16), (0.12, 0.35, 0.85)


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", help="picture file to explain")
    parser.add_argument("--graph", required=True, help="file that `dmn export` has written")
    parser.add_argument(
        "--target",
        help="class by name or index, of a graph that takes one (default: the predicted one)",
    )
    parser.add_argument(
        "--out", default="explained.png", help="PNG file to write (default: %(default)s)"
    )
    return parser.parse_args(args)


def read(file: str, channels: int, height: int, width: int) -> Array:
    """Read a picture as the network sees it: scaled, cropped to the centre, (C, H, W) in [0, 1]."""
    with Image.open(file) as opened:
        picture = opened.convert("L" if channels == 1 else "RGB")
    scale = max(width / picture.width, height / picture.height)
    covering = (
        max(round(picture.width * scale), width),
        max(round(picture.height * scale), height),
    )
    picture = picture.resize(covering, Image.Resampling.BILINEAR)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    pixels = np.asarray(picture.crop((left, top, left + width, top + height)), np.float32) / 255
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def normalise(pixels: Array, about: dict[str, Any]) -> Array:
    """Bring pixels to what the graph takes, which may normalise them itself."""
    if about["input"] == "pixels":
        return pixels
    mean, std = (
        np.asarray(about[name] or [default], np.float32).reshape(-1, 1, 1)
        for name, default in (("mean", 0.0), ("std", 1.0))
    )
    ordered = pixels[::-1] if about["bgr"] else pixels
    normalised: Array = (ordered - mean) / std
    return normalised


def find_class(name: str, classes: Sequence[str], count: int) -> int:
    """Find a class by its name in any case or, failing that, by its index."""
    lower = [known.lower() for known in classes]
    if name.lower() in lower:
        return lower.index(name.lower())
    if name in map(str, range(count)):
        return int(name)
    raise SystemExit(f"no class {name!r}; give a name, or an index from 0 to {count - 1}")


def overlay(pixels: Array, heatmap: Array, against: bool) -> Array:
    """Colour a map (H, W) over its picture in grey: (H, W, 3) in [0, 1]."""
    strength = heatmap / max(float(np.quantile(np.abs(heatmap), 0.995)), 1e-12)
    opacity = np.clip(np.abs(strength), 0, 1)[..., None]
    positive, negative = (BLUE, RED) if against else (RED, BLUE)
    colour = np.where(strength[..., None] > 0, positive, negative)
    grey = 0.5 + 0.5 * pixels.mean(axis=0)[..., None]
    coloured: Array = grey * (1 - opacity * (1 - colour))
    return coloured


def main(args: Sequence[str] | None = None) -> None:
    """Read, classify, explain, draw."""
    options = parse(args)
    session = onnxruntime.InferenceSession(options.graph, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    about = {name: json.loads(value) for name, value in metadata.items()}
    names = [output.name for output in session.get_outputs()]
    pixels = read(options.image, *about["size"])
    feed = {"image": normalise(pixels, about)[None].astype(np.float32)}
    if about["target"] == "input":
        feed["target"] = np.zeros(1, np.int64)
        (logits,) = session.run(["logits"], feed)
        feed["target"] = logits.argmax(axis=1)
        if options.target is not None:
            chosen = find_class(options.target, about["classes"] or (), logits.shape[1])
            feed["target"] = np.array([chosen])
    elif options.target is not None:
        raise SystemExit("this graph explains the predicted class; export one by --target input")
    logits, *maps = session.run(names, feed)
    shares = np.exp(logits[0] - logits[0].max())
    shares /= shares.sum()
    for index in np.argsort(-logits[0])[:3]:
        label = about["classes"][index] if about["classes"] else index
        print(f"{label} {shares[index]:.0%}")
    drawn = [
        overlay(pixels, heatmap[0, 0], against=name == "map_h")
        for name, heatmap in zip(names[1:], maps, strict=True)
    ]
    Image.fromarray((np.concatenate(drawn, axis=1) * 255).astype(np.uint8)).save(options.out)
    print(f"saved {options.out}: {about['method']}, {', '.join(names[1:])}")


if __name__ == "__main__":
    main()
