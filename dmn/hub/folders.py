"""What a folder of Hugging Face's says and holds, read without running code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dmn.errors import CheckpointError, UnknownNameError
from dmn.hub.cards import content_of
from dmn.io.weights import truncate

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
CODE = "auto_map"  # names code in the folder, or in another one
QUANTIZED = "quantization_config"
ATTENTION = "attn_implementation"  # may name code to be fetched; also with _ before it
FORBIDDEN = {
    CODE: "asks for code of its own, which is never run; transformers' own classifiers need none",
    QUANTIZED: "is of quantized weights, which are not read; give those it was made from",
}


class Folder(NamedTuple):
    """A folder as `save_pretrained` writes it.

    Attributes:
        path: Of the folder.
        config: Content of config.json.
        preprocessor: Content of preprocessor_config.json, or None.
    """

    path: Path
    config: dict[str, Any]
    preprocessor: dict[str, Any] | None

    def weights(self) -> Path:
        """Return the file of weights.

        Raises:
            CheckpointError: if there is none that can be read without running code; names those
                that there are.
        """
        path = self.path / WEIGHTS
        if os.path.isfile(path):
            return path
        save = f"save it by model.save_pretrained as one {WEIGHTS}"
        ends = (".bin", ".h5", ".msgpack", ".pt", ".pth", ".ckpt", ".index.json", ".safetensors")
        if others := sorted(name for name in os.listdir(self.path) if name.endswith(ends)):
            raise CheckpointError(
                f"{self.path}: {truncate(others)} is not read, only {WEIGHTS}, which cannot hold "
                f"code; {save}"
            )
        raise CheckpointError(
            f"{self.path}: there is no {WEIGHTS}, and nothing is downloaded; {save}, give another "
            "file by weights, or weights 'random'"
        )


def read_folder(path: str) -> Folder:
    """Read what a folder says of a network and of its images.

    Raises:
        UnknownNameError: if there is no such folder.
        CheckpointError: if a file is missing or damaged, or asks for code.
    """
    folder = Path(path)
    if not path or not os.path.isdir(folder):
        raise UnknownNameError(
            f"{path or 'hf:'}: there is no such folder; hf:FOLDER takes one as save_pretrained "
            f"writes it, with {CONFIG} and {WEIGHTS}, and downloads nothing (a module of your own "
            "needs another name than hf)"
        )
    if not os.path.isfile(folder / CONFIG):
        raise CheckpointError(
            f"{folder}: there is no {CONFIG}, which says what network it is; save it by "
            "model.save_pretrained"
        )
    config = _read(folder / CONFIG)
    found = os.path.isfile(folder / PREPROCESSOR)
    return Folder(folder, config, _read(folder / PREPROCESSOR) if found else None)


def harmless(values: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """Return a configuration without what chooses code for attention.

    Args:
        values: Of a file.
        path: The file.

    Raises:
        CheckpointError: if it asks for code, or is of quantized weights.
    """
    for key, fault in FORBIDDEN.items():
        if key in set(_keys(values)):
            raise CheckpointError(f"{path}: {fault} ({key})")
    cleaned: dict[str, Any] = _without_attention(values)
    return cleaned


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(content_of(path))
        if not isinstance(values, dict):
            raise ValueError(f"holds a {type(values).__name__}")
        return harmless(values, path)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _keys(values: Any) -> Iterator[str]:
    """Yield the keys of a configuration, and of all within it."""
    if isinstance(values, dict):
        yield from values
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, dict | list):
            yield from _keys(value)


def _without_attention(values: Any) -> Any:
    if isinstance(values, list):
        return [_without_attention(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {key: _without_attention(value) for key, value in values.items() if ATTENTION not in key}
