"""Terms of the loss that ask something of the maps by which a network explains itself."""

from __future__ import annotations

from torch import Tensor, nn

from dmn.errors import UnsupportedError
from dmn.explain import SplitCAM
from dmn.explain.methods import StreamPart
from dmn.models import DifferenceOfMonotone
from dmn.nn import Stream
from dmn.train.terms import Term


class MapTerm(Term):
    """Base class of terms that read SplitCAM's map of a class; subclasses define `__call__`.

    Args:
        weight: Factor of the term.
        layer: Where to read the explanation; see `layers` of the network. A layer below it is
            trained by what it does to this layer.
        stream: The evidence of "g", "h" or their difference.
        part: "p", "n", their sum "p+n" or their difference "p-n".
        contrast: Start from the logit minus the mean of all, so that evidence for all classes does
            not count.
        share: Share of each batch that is explained, in (0, 1]; half of it costs half as much.

    Raises:
        UnsupportedError: when called with a network that is not a `DifferenceOfMonotone`.
        UnknownNameError: when called, if there is no such layer; lists those that exist.
    """

    def __init__(
        self,
        weight: float = 1.0,
        layer: str = "input",
        stream: Stream = "g",
        part: StreamPart = "p+n",
        contrast: bool = True,
        share: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.layer, self.stream, self.part = layer, stream, part
        self.contrast, self.share = contrast, share

    def maps(self, net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        """Return the maps (B, 1, H, W) of images, which are differentiable in the weights.

        Args:
            net: The network, in eval mode, in which alone it is monotone.
            x: Images (B, C, H, W).
            target: Class indices (B,).
        """
        if not isinstance(net, DifferenceOfMonotone):
            raise UnsupportedError(
                f"{type(self).__name__} reads a DifferenceOfMonotone, and {type(net).__name__} is "
                "none"
            )
        explainer = SplitCAM(net, self.layer, self.stream, self.part, contrast=self.contrast)
        (config,) = explainer.passes
        read = net.read(x, target, [self.layer], config, [self.stream], create_graph=True)
        return explainer.map(lambda pair, config: read, self.stream, x)
