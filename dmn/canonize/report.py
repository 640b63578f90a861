"""What canonization did to the norms and scales of a network, and what it left."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from torch import fx

from dmn.canonize.affine import shape_of
from dmn.errors import UnsupportedError
from dmn.graph.nodes import Unsupported, place_and_kind

_REPORT = "canonized"  # key in a network's meta


class FoldingReport(NamedTuple):
    """What `canonize` folded and what it left; returned by `folding_report`.

    Attributes:
        folded: Module paths of norms and scales that became part of linear operations nearby.
        replaced: Module paths of those that became linear operations of their own.
        left: Norms and scales that stay, with the reasons.
        example_shape: Shape (B, C, H, W) of the example; None if there was none.

    Examples:
        >>> net = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
        >>> print(folding_report(canonize(net)))
        folded into linear operations: LayerNorm x 1
        left: 2 (LayerNorm): its output goes to 3 (ReLU), which is not linear
    """

    folded: tuple[str, ...]
    replaced: tuple[str, ...]
    left: tuple[Unsupported, ...]
    example_shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        lines = [
            f"{done}: {_count(paths)}"
            for done, paths in (
                ("folded into linear operations", self.folded),
                ("written as linear operations of their own", self.replaced),
            )
            if paths
        ]
        return "\n".join([*lines, *(f"left: {node}" for node in self.left)]) or "nothing to fold"


def _count(paths: tuple[str, ...]) -> str:
    kinds = Counter(place_and_kind(path)[1] for path in paths)
    return ", ".join(f"{kind} x {number}" for kind, number in kinds.items())


def set_report(network: fx.GraphModule, report: FoldingReport) -> None:
    """Keep a report with the network that it is of, and with copies of it."""
    (images,) = network.graph.find_nodes(op="placeholder")
    shape = shape_of(images)
    network.meta[_REPORT] = report._replace(example_shape=shape and tuple(shape))


def folding_report(network: fx.GraphModule) -> FoldingReport:
    """Return what was folded, and what was left with the reasons.

    Args:
        network: Returned by `canonize`.

    Raises:
        UnsupportedError: if it was not.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> folding_report(canonize(net)).folded
        ('1 (BatchNorm2d)',)
    """
    report: FoldingReport | None = network.meta.get(_REPORT)
    if report is None:
        raise UnsupportedError(f"{type(network).__name__} is not canonized; call canonize first")
    return report
