"""Turn any network into a pair that can be read at the pixels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from torch import Tensor, nn

from dmn.explain.target import class_names
from dmn.models import DifferenceOfMonotone
from dmn.nn import GRADIENT, BackwardConfig, Pair, Reading, Stream, is_pair
from dmn.split.mirror import unfold_front
from dmn.split.model import split


class FrontAdapter:
    """A difference network with a front, as a pair that can be read at its pixels too.

    Layer "input" is the image. It is read from `unfold_front(model)`: part p is the image, part n
    its negative. All other layers are those of the network itself.

    Args:
        model: A difference network with a front. Its weights are copied when the image is first
            read.

    Raises:
        UnsupportedError: when the image is first read, if the front has no mirror image.
    """

    def __init__(self, model: DifferenceOfMonotone) -> None:
        self._model = model

    @cached_property
    def _unfolded(self) -> DifferenceOfMonotone:
        return unfold_front(self._model)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names a map can be read at."""
        return ("input", *self._model.layers)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where the network has an attribute `classes`."""
        return class_names(self._model)

    def modules(self) -> Iterator[nn.Module]:
        """Yield the network's modules."""
        return self._model.modules()

    def g(self, x: Tensor) -> Tensor:
        """Return the evidence for each class, (B, K)."""
        evidence: Tensor = self._model.g(self._model.front(x))
        return evidence

    def h(self, x: Tensor) -> Tensor:
        """Return the evidence against each class, (B, K)."""
        evidence: Tensor = self._model.h(self._model.front(x))
        return evidence

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K)."""
        logits: Tensor = self._model(x)
        return logits

    def read(
        self,
        x: Tensor,
        target: Tensor,
        layers: Sequence[str],
        config: BackwardConfig = GRADIENT,
        streams: Collection[Stream] = ("g", "h"),
    ) -> dict[str, dict[Stream, Reading]]:
        """Read layers of g and h; see `dmn.nn.Pair`."""
        above = [layer for layer in layers if layer != "input"]
        read = self._model.read(x, target, above, config, streams) if above else {}
        if "input" in layers:
            read |= self._unfolded.read(x, target, ["input"], config, streams)
        return read


def as_pair(model: nn.Module, *example: Tensor) -> Pair:
    """Return a network as a pair: unchanged, by a `FrontAdapter`, or split.

    Args:
        model: Any network.
        *example: Images to split it on; see `split`.

    Raises:
        UnsupportedError: if it must be split and cannot be; lists every operation without a rule.
    """
    if isinstance(model, DifferenceOfMonotone) and model.sees != "input":
        return FrontAdapter(model)
    return model if is_pair(model) else split(model, *example)
