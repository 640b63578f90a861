"""Turn any network into a pair that can be read at the pixels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from torch import Tensor, nn

from dmn.certify import Bounds
from dmn.explain.target import class_names, resolve_target
from dmn.models import DifferenceOfMonotone
from dmn.nn import GRADIENT, BackwardConfig, Pair, Reading, Stream, is_pair
from dmn.split.build import split
from dmn.split.mirror import unfold_front


class FrontAdapter:
    """A difference network with a front, as a pair that can be read at the pixels, too.

    Layer "input" is the image, which is read from `unfold_front(model)`: part p is the image, part
    n its negative. All other layers are those of the network itself.

    Args:
        model: A difference network with a front. Its weights are copied when the image is first
            read.

    Raises:
        UnsupportedError: when the image is first read, if the front cannot be mirrored.

    Examples:
        >>> pair = FrontAdapter(dmn.load("mnist_front").model)
        >>> pair.layers[:3]
        ('input', 'front', 'stem')
    """

    def __init__(self, model: DifferenceOfMonotone) -> None:
        self._model = model

    @cached_property
    def _unfolded(self) -> DifferenceOfMonotone:
        return unfold_front(self._model)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be read."""
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

    def bounds(self, low: Tensor, high: Tensor) -> Bounds:
        """Return bounds of each logit for all images between two; see `dmn.certify.bounds`."""
        return self._model.bounds(low, high)

    def read(
        self,
        x: Tensor,
        target: Tensor | None,
        layers: Sequence[str],
        config: BackwardConfig = GRADIENT,
        streams: Collection[Stream] = ("g", "h"),
    ) -> dict[str, dict[Stream, Reading]]:
        """Read layers of g and h; see `dmn.nn.Pair`."""
        target = resolve_target(self._model, x, None) if target is None else target
        above = [layer for layer in layers if layer != "input"]
        read = self._model.read(x, target, above, config, streams) if above else {}
        if "input" in layers:
            read |= self._unfolded.read(x, target, ["input"], config, streams)
        return read


def as_pair(model: nn.Module, *example: Tensor) -> Pair:
    """Return a network as a pair that can be read at the pixels.

    Args:
        model: Any network.
        *example: Images on which it is split if need be; see `split`.

    Returns:
        The network itself if it is a pair, a `FrontAdapter` of a difference network with a front,
        or else the split network.

    Raises:
        UnsupportedError: if it has to be split and cannot be; lists all operations without a rule.

    Examples:
        >>> type(as_pair(dmn.load("mnist_paired").model)).__name__
        'DifferenceOfMonotone'
        >>> type(as_pair(dmn.load("mnist_front").model)).__name__
        'FrontAdapter'
        >>> type(as_pair(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))).__name__
        'SplitModel'
    """
    if isinstance(model, DifferenceOfMonotone) and model.sees != "input":
        return FrontAdapter(model)
    return model if is_pair(model) else split(model, *example)
