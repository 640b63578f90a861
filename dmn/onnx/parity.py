"""Whether onnxruntime computes what torch does: largest differences, as a certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dmn.errors import required

LOGITS = 1e-4  # largest relative difference that is accepted
MAPS = 1e-3
NOISE = 1e-6  # share of the largest pixel; what float32 rounds in a deep network
DRAWS = 8
BATCHES = (1, 5)
Differences = dict[int, dict[str, float]]  # of each output, by its name, by the number of images
Reference = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Parity:
    """How far an exported graph in onnxruntime is from torch; prints as a table.

    Differences are relative to the largest absolute value of what torch computes. Maps may be less
    certain than that: where the largest values of a window are equal, as on a plain background,
    rounding decides which of them a max pool picks, and so where the map is. If differences are too
    large, they are compared with what noise of 1e-6 in the images changes in torch's own maps.

    Attributes:
        differences: The largest difference of each output, by its name, by the number of images.
        classes: Which classes were explained.
        noise: Likewise, what noise of 1e-6 changes in torch; {} if differences are small anyway.

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

    differences: Differences
    classes: tuple[int, ...]
    noise: Differences = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether logits differ by at most 1e-4 and maps by at most 1e-3, or as noise does."""
        return all(
            difference <= self._accepted(count, name)  # false for nan
            for count, row in self.differences.items()
            for name, difference in row.items()
        )

    def _accepted(self, count: int, name: str) -> float:
        usual = LOGITS if name == "logits" else MAPS
        return max(usual, 2 * self.noise[count][name]) if self.noise else usual

    def __str__(self) -> str:
        classes = ", ".join(map(str, self.classes))
        lines = [
            "onnxruntime against torch, largest difference relative to the largest value:",
            *_table(self.differences),
        ]
        limits = f"{LOGITS:g} of logits, {MAPS:g} of maps"
        if self.noise:
            lines += [f"torch, with noise of {NOISE:g} against without:", *_table(self.noise)]
            limits += ", or twice the latter"
        return "\n".join([*lines, f"explained classes: {classes}; accepted: {limits}"])


def _table(differences: Differences) -> list[str]:
    names = list(next(iter(differences.values())))
    rows = [["images", *names]]
    for count, row in differences.items():
        rows.append([str(count), *(f"{row[name]:.1g}" for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def check_parity(
    graph: bytes,
    reference: Reference,
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
    computed = {}
    for count in batches:
        x = images.repeat(-(-count // len(images)), *[1] * (images.dim() - 1))[:count]
        with torch.no_grad():
            logits, *_ = expected = reference(x)
            chosen = logits.argmax(1)
            if takes_target:
                chosen = (chosen + torch.arange(count)) % logits.shape[1]
                expected = reference(x, chosen)
        computed[count] = x, chosen, expected
    differences = {}
    for count, (x, chosen, expected) in computed.items():
        feed: dict[str, Any] = {"image": x.numpy()}
        feed |= {"target": chosen.numpy()} if takes_target else {}
        found = [torch.from_numpy(each) for each in session.run(None, feed)]
        differences[count] = _compare(names, found, expected)
    classes = dict.fromkeys(torch.cat([each for _, each, _ in computed.values()]).tolist())
    parity = Parity(differences, tuple(classes))
    if parity.holds:
        return parity
    noise = {count: _compare_noisy(names, reference, *values) for count, values in computed.items()}
    return replace(parity, noise=noise)


def _compare_noisy(
    names: Sequence[str],
    reference: Reference,
    x: Tensor,
    chosen: Tensor,
    expected: Sequence[Tensor],
) -> dict[str, float]:
    """Return the largest differences that noise makes in torch, in some draws."""
    random = torch.Generator().manual_seed(0)
    largest = dict.fromkeys(names, 0.0)
    for _ in range(DRAWS):
        noise = torch.empty_like(x).uniform_(-1, 1, generator=random)
        with torch.no_grad():
            found = reference(x + NOISE * x.abs().max() * noise, chosen)
        for name, difference in _compare(names, found, expected).items():
            largest[name] = max(largest[name], difference)
    return largest


def _compare(
    names: Sequence[str], found: Sequence[Tensor], expected: Sequence[Tensor]
) -> dict[str, float]:
    pairs = zip(found, expected, strict=True)
    return {name: _difference(*pair) for name, pair in zip(names, pairs, strict=True)}


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
