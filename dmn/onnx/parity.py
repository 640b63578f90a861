"""Whether onnxruntime computes what torch does: largest differences, as a certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmn.errors import required

LOGITS = 1e-4  # largest relative difference that is accepted
MAPS = 1e-3
BATCHES = (1, 5)
PACKAGES = "onnx, onnxscript and onnxruntime"


@dataclass(frozen=True)
class Parity:
    """How far an exported graph in onnxruntime is from torch; prints as a table.

    Differences are relative to the largest absolute value of what torch computes.

    Attributes:
        differences: The largest difference of each output, by its name, by the number of images.
        classes: Which classes were explained.

    Examples:
        >>> parity = Parity({1: {"logits": 2e-7, "map": 3e-6}}, (4,))
        >>> parity.holds
        True
        >>> print(parity)
        onnxruntime against torch, largest difference relative to the largest value:
          images  logits  map
          1       2e-07   3e-06
        explained classes: 4; accepted: 0.0001 of logits, 0.001 of maps
    """

    differences: dict[int, dict[str, float]]
    classes: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether logits differ by at most 1e-4 and maps by at most 1e-3."""
        return all(
            difference <= (LOGITS if name == "logits" else MAPS)  # false for nan
            for row in self.differences.values()
            for name, difference in row.items()
        )

    def __str__(self) -> str:
        names = list(next(iter(self.differences.values())))
        rows = [["images", *names]]
        for count, row in self.differences.items():
            rows.append([str(count), *(f"{row[name]:.1g}" for name in names)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  " + "  ".join(map(str.ljust, row, widths)).rstrip()  # one line per batch
            for row in rows
        ]
        shown = ", ".join(map(str, self.classes))
        return "\n".join(
            [
                "onnxruntime against torch, largest difference relative to the largest value:",
                *lines,
                f"explained classes: {shown}; accepted: {LOGITS:g} of logits, {MAPS:g} of maps",
            ]
        )


def check_parity(
    graph: bytes,
    reference: Callable[..., Sequence[Tensor]],
    images: Tensor,
    batches: Sequence[int] = BATCHES,
) -> Parity:
    """Run an exported graph in onnxruntime, on the CPU, and compare it with torch.

    Args:
        graph: The content of an ONNX file, whose first output is the logits.
        reference: What the graph was made of: takes what it takes, and returns what it returns.
        images: Images (B, C, H, W), as the graph takes them; they are repeated if a batch needs
            more.
        batches: How many images to run at once.

    Returns:
        The largest differences. Where the graph takes classes, each image has another.

    Raises:
        MissingPackageError: if onnxruntime is not installed.
    """
    session = open_session(graph)
    names = [output.name for output in session.get_outputs()]
    takes_target = len(session.get_inputs()) > 1
    differences: dict[int, dict[str, float]] = {}
    classes: dict[int, None] = {}
    for count in batches:
        x = images.repeat(-(-count // len(images)), *[1] * (images.dim() - 1))[:count]
        with torch.no_grad():
            logits, *_ = expected = reference(x)
            chosen = logits.argmax(1)
            if takes_target:
                chosen = (chosen + torch.arange(count)) % logits.shape[1]
                expected = reference(x, chosen)
        feed: dict[str, Any] = {"image": x.numpy()}
        feed |= {"target": chosen.numpy()} if takes_target else {}
        found = map(torch.from_numpy, session.run(None, feed))
        differences[count] = {
            name: _difference(*pair)
            for name, pair in zip(names, zip(found, expected, strict=True), strict=True)
        }
        classes |= dict.fromkeys(chosen.tolist())
    return Parity(differences, tuple(classes))


def open_session(graph: bytes) -> Any:
    """Return a session of onnxruntime on the CPU.

    Raises:
        MissingPackageError: if it is not installed.
    """
    with required("onnxruntime", "onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of what it does not fold
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _difference(found: Tensor, expected: Tensor) -> float:
    size = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)  # may all be 0
    return float((found - expected).abs().max() / size)
