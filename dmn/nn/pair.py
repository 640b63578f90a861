"""The pair: what explainers know of a network, as the difference f = g - h."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from dmn.errors import DmnError

Backward = Literal["gradient", "relevance"]


class UnknownLayerError(DmnError, KeyError):
    """A layer that the pair does not have, or that holds no image; names those that it has."""


class Reading(NamedTuple):
    """What one side of a pair holds at a layer, and how its chosen logit answers to it.

    A layer has a part p, and may have a part n: the complement of a paired input, or the negative
    stream of a split network. Where there is no n, it has no channels.

    Attributes:
        p: (B, C, H, W).
        n: (B, C', H, W); C' is 0 where there is no such part.
        delta_p: Sensitivity to p; the gradient of the logit or, read backward by relevance, the
            relevance of a unit divided by its activation.
        delta_n: Sensitivity to n.
    """

    p: Tensor
    n: Tensor
    delta_p: Tensor
    delta_n: Tensor


@runtime_checkable
class Pair(Protocol):
    """A network f = g - h with named layers.

    Attributes:
        layers: Names a map can be read at, from "input" to the last one that is an image.
    """

    @property
    def layers(self) -> tuple[str, ...]: ...  # noqa: D102

    def modules(self) -> Iterator[nn.Module]:
        """Walk the modules, as of any torch module."""

    def g(self, x: Tensor) -> Tensor:
        """Return the evidence for each class, (B, K)."""

    def h(self, x: Tensor) -> Tensor:
        """Return the evidence against each class, (B, K)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits g(x) - h(x), (B, K)."""

    def read(
        self, x: Tensor, target: Tensor, layer: str, backward: Backward = "gradient"
    ) -> tuple[Reading, Reading]:
        """Read g's and h's side of a layer, for one target class an image.

        Args:
            x: Images (B, C, H, W).
            target: Class indices (B,).
            layer: One of `layers`.
            backward: "gradient", or "relevance" for epsilon-LRP through every layer above.

        Raises:
            UnknownLayerError: if there is no such layer, or it holds no image.
        """
