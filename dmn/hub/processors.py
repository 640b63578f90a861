"""How classifiers of Hugging Face prepare pictures: by their own processors, which are measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dmn.errors import CheckpointError, UnsupportedError, required
from dmn.hub.described import images_described
from dmn.hub.folders import CONFIG, PREPROCESSOR, harmless
from dmn.hub.preprocess import as_picture
from dmn.io.text import one_line, size_text

DIGITS = 6  # that are kept of what is measured
SIDES = ((360, 480), (480, 360))  # of pictures that it is measured with


@dataclass(frozen=True)
class Processed:
    """What a processor makes of a picture, of tensors too.

    Args:
        processor: An image processor of transformers.
        channels: That the network takes.
    """

    processor: Any
    channels: int

    def __call__(self, picture: Any) -> Tensor:
        """Return a picture as the network takes it, (C, H, W)."""
        given = as_picture(picture, self.channels)
        if self.channels == 1:
            given = pil_to_tensor(given)  # with its channel, which some processors need
        made = self.processor(images=given, return_tensors="pt")
        image: Tensor = made["pixel_values"][0]
        return image


def about_images(
    config: dict[str, Any], preprocessor: dict[str, Any], path: Path | str = PREPROCESSOR
) -> dict[str, Any]:
    """Return what `Network` wants to know of images: size, mean, std, transform, and bgr.

    Args:
        config: Content of config.json.
        preprocessor: Content of preprocessor_config.json.
        path: Of the latter.

    Raises:
        CheckpointError: if it is damaged, asks for code, or makes all pictures alike.
        UnsupportedError: if it makes no images.
    """
    channels = int(config.get("num_channels", 3))
    try:
        transform = Processed(_processor(config, harmless(preprocessor, path)), channels)
        black, white = (transform(_picture(value)) for value in (0, 255))
        wide, high = (transform(torch.zeros(3, *sides, dtype=torch.uint8)) for sides in SIDES)
    except CheckpointError:
        raise
    except Exception as error:  # of what was tampered with, or makes something else than images
        raise CheckpointError(f"{path}: cannot be used: {one_line(error)}") from error
    if black.ndim != 3 or len(black) != channels:
        raise UnsupportedError(f"{path}: makes {size_text(black.shape)} of pictures, no images")
    low, high_value = black.mean((1, 2)), white.mean((1, 2))
    std = 1 / (high_value - low)
    if not std.isfinite().all() or (std <= 0).any():
        raise CheckpointError(f"{path}: makes all pictures alike")
    mean = 0.0 - low * std
    return {
        "size": tuple(wide.shape) if wide.shape == high.shape else None,
        "mean": _rounded(mean),
        "std": _rounded(std),
        "transform": transform,
        "bgr": _is_bgr(transform, low, std),
    }


def assumed_images(config: dict[str, Any], known: Any) -> tuple[dict[str, Any], str]:
    """Return what `Network` wants to know of images where nothing says it, and say what is assumed.

    Args:
        config: Content of config.json.
        known: The configuration.

    Raises:
        UnsupportedError: if transformers has no processor for this kind of network.
    """
    try:
        about = about_images(config, {}, "the default")
    except CheckpointError as error:
        raise UnsupportedError(f"{known.model_type} has no image processor of its own") from error
    side = getattr(known, "image_size", None)
    size = about["size"] if about["size"] else (int(config.get("num_channels", 3)), 224, 224)
    if side is not None:
        size = (size[0], *(side if isinstance(side, list | tuple) else (side, side)))
    values = {"size": size, "mean": about["mean"], "std": about["std"]}
    told = (
        f"pictures are prepared as {known.model_type} networks mostly are: {size_text(size)}, mean "
        f"{list(about['mean'])}, std {list(about['std'])}; if it was trained otherwise, give size, "
        "mean and std"
    )
    return images_described(known.model_type, **values), told


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars, and from reporting what is refused or told anyway."""
    with required("transformers", "huggingface"):
        from transformers.utils import logging as messages
    level, bars = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity(logging.CRITICAL)
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(level)
        if bars:
            messages.enable_progress_bar()


def _processor(config: dict[str, Any], preprocessor: dict[str, Any]) -> Any:
    """Make transformers' processor, from nothing else than these two files."""
    with required("transformers", "huggingface"):
        from transformers import AutoImageProcessor
    with TemporaryDirectory() as folder:
        for name, values in ((CONFIG, config), (PREPROCESSOR, preprocessor)):
            Path(folder, name).write_text(json.dumps(values), encoding="utf-8")
        with quiet():
            return AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )


def _picture(value: int) -> Tensor:
    return torch.full((3, 480, 480), value, dtype=torch.uint8)


def _is_bgr(transform: Processed, low: Tensor, std: Tensor) -> bool:
    """Tell whether red comes last."""
    if transform.channels != 3:
        return False
    red = _picture(0)
    red[0] = 255
    lit = (transform(red).mean((1, 2)) - low) * std
    return bool(lit[2] > lit[0])


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, DIGITS) for value in values.double().tolist())
