"""What `dmn explain` makes of each picture: a row of its panel, arrays, saved explanations."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmn.errors import OptionError
from dmn.explain import resolve_target
from dmn.explain.target import probabilities
from dmn.hub import Network
from dmn.hub.explaining import Method, complete, find_rival, weights_sha256
from dmn.io.options import require_names, require_output
from dmn.io.text import plain
from dmn.nn import Stream, predict_logits
from dmn.viz.panels import overlay
from dmn.viz.typeface import class_label

LINE = 24  # characters before a row


class Asked(NamedTuple):
    """Which classes of each picture are explained and printed.

    Attributes:
        target: The class; None for the predicted one.
        rival: The class that it is explained against; True for the most probable other, or None.
        top: How many classes are printed.
        top_maps: How many of the most probable ones are explained side by side; 0 for the target.
    """

    target: int | None
    rival: int | bool | None
    top: int
    top_maps: int


class Explained(NamedTuple):
    """What one method makes of one class of a picture.

    Attributes:
        method: The method.
        rank: 1 for the most probable class, ...; 0 if a single class is explained.
        classes: The class (1,), or with its rival (1, 2).
        maps: (1, 1, H, W) by stream.
    """

    method: Method
    rank: int
    classes: Tensor
    maps: dict[Stream, Tensor]

    def titled(self) -> Iterator[tuple[str, Stream]]:
        """Yield the title of the column of each map, and the stream."""
        rank = f" top {self.rank}" if self.rank else ""
        for stream, title in self.method.titles.items():
            yield title + rank, stream


class Row(NamedTuple):
    """A picture: its file, what the network sees, a label, and what explains it."""

    file: str
    x: Tensor
    label: str
    explained: list[Explained]


def explain_row(
    network: Network, file: str, x: Tensor, methods: Sequence[Method], asked: Asked
) -> Row:
    """Explain a picture by every method, and print its most probable classes.

    Args:
        network: The network.
        file: The picture's file.
        x: What the network sees of it, (1, C, H, W).
        methods: The methods.
        asked: Which classes.

    Raises:
        TargetError: for a class that is its own rival, or that the network does not have.
    """
    likely = _classify(network, x, max(asked.top, asked.top_maps))
    ranked = list(likely)[: asked.top_maps] or [
        next(iter(likely)) if asked.target is None else asked.target
    ]
    wanted = [find_rival(index, asked.rival) for index in ranked]
    resolved = [resolve_target(network.model, x, each) for each in wanted]
    explained = []
    for method in methods:
        for rank, (target, classes) in enumerate(zip(wanted, resolved, strict=True), 1):
            maps = {stream: make(x, target) for stream, make in method.explainers.items()}
            explained.append(Explained(method, rank if asked.top_maps else 0, classes, maps))
    names = explained[0].classes.flatten().tolist()
    rivalled = asked.rival is not None  # which may be class 0
    printed = ", ".join(f"{network.label(index)} {share}" for index, share in likely.items())
    why = f"; why {' and not '.join(map(network.label, names))}?" if rivalled else ""
    print(plain(f"{file}: {printed}{why}"))
    lines = [Path(file).name]
    for rank, (index, share) in enumerate(likely.items(), 1):
        number = f"{rank}. " if asked.top_maps else ""
        lines.append(f"{number}{class_label(network.label(index), index)} {share}")
    if asked.target is not None or rivalled:
        drawn = [class_label(network.label(index), index) for index in names]
        lines.append(f"why {', not '.join(drawn)}?")
    return Row(file, x, "\n".join(fill(plain(line), LINE) for line in lines), explained)


def panel_columns(
    rows: Sequence[Row], shown: Sequence[Tensor], invert: bool
) -> dict[str, list[Tensor]]:
    """Return the columns of the panel: the pictures, and each method's heatmaps over them.

    Args:
        rows: The pictures.
        shown: Each as it is drawn, (1, C, H, W).
        invert: Whether their colours were turned over.
    """
    columns = {"image": [1 - picture[0] if invert else picture[0] for picture in shown]}
    for row, picture in zip(rows, shown, strict=True):
        for explained in row.explained:
            for title, stream in explained.titled():
                drawn = overlay(picture, explained.maps[stream], against=stream == "h")[0]
                columns.setdefault(title, []).append(drawn)
    return columns


def npz(rows: Sequence[Row], shown: Sequence[Tensor], ranked: bool) -> bytes:
    """Return pictures, maps and classes as the content of one .npz file.

    Args:
        rows: The pictures.
        shown: Each as it is drawn, (1, C, H, W).
        ranked: Whether several classes of each are explained.
    """
    parts: dict[str, list[Tensor]] = {"image": list(shown)}
    classes = []
    for row in rows:
        first = row.explained[0].method
        of_first = [each.classes for each in row.explained if each.method is first]
        classes.append(torch.stack(of_first, dim=1) if ranked else of_first[0][:, None])
        for explained in row.explained:
            for title, stream in explained.titled():
                parts.setdefault(title, []).append(explained.maps[stream])
    arrays: dict[str, Any] = {
        title: torch.cat(tensors).float().cpu().numpy() for title, tensors in parts.items()
    }
    indices = torch.cat(classes).cpu().numpy()
    if indices.ndim == 3:
        arrays["rival"] = indices[:, 0, 1]
        indices = indices[..., 0]
    content = io.BytesIO()
    np.savez(content, target=indices if ranked else indices[:, 0], **arrays)
    return content.getvalue()


def require_save(
    save: str, images: Sequence[str], of_each: int, inputs: Iterable[str | None]
) -> None:
    """Refuse a place for explanations that they do not fit in, before they are made.

    Args:
        save: The value of `--save`.
        images: The pictures' files.
        of_each: How many explanations there are of each.
        inputs: Other files, which must not be replaced.

    Raises:
        OptionError: names the option, and says what would work.
    """
    if Path(save).suffix == ".zip":
        require_output("--save", save, ".zip", inputs)
        if len(images) * of_each > 1:
            raise OptionError(
                f"--save is {save!r}, and there are {len(images) * of_each} explanations; give a "
                "folder, or one picture and one --method"
            )
        return
    require_names("--save", save)
    stems = [Path(file).stem for file in images]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise OptionError(f"--save names files by the pictures, and two are called {twice[0]!r}")


def save_rows(network: Network, rows: Sequence[Row], save: str) -> None:
    """Save every explanation by itself.

    Args:
        network: The network.
        rows: The pictures.
        save: A .zip file for a single explanation, or a folder for all.
    """
    sha256 = weights_sha256(network)
    for row in rows:
        for method, rank, classes, maps in row.explained:
            name = f"{Path(row.file).stem}_{method.name}{f'_top{rank}' if rank else ''}.zip"
            path = save if Path(save).suffix == ".zip" else Path(save, name)
            made = complete(network, row.x, classes, method, maps, sha256, row.file)
            print(plain(f"saved {made.save(path)}"))


@torch.no_grad()
def _classify(network: Network, x: Tensor, top: int) -> dict[int, str]:
    """Return the most probable classes of an image, the first first, and how probable each is."""
    return most_probable(probabilities(predict_logits(network.model, x))[0], top)


def most_probable(chances: Tensor, top: int) -> dict[int, str]:
    """Return the classes of the largest probabilities (K,), the first first, each with a text."""
    shares, indices = (values.tolist() for values in chances.topk(min(top, len(chances))))
    return dict(zip(indices, map(_percent, shares), strict=True))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"
