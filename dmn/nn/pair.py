"""The interface of a network as a difference f = g - h, through which explainers read it."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeGuard

from torch import Tensor, nn

from dmn.errors import UnknownNameError
from dmn.nn.output import EPSILON, OutputSelector

Backward = Literal["gradient", "relevance"]
"""What a pass carries back: sensitivities, or relevance."""
Stream = Literal["g", "h", "g-h"]
"""A side of a pair, or the difference of both: evidence, counter-evidence, the logit."""
Pool = Literal["winner", "convex"]
"""A form of max pooling in a split network; see `dmn.split.split`."""
Alpha = float | Sequence[float] | Mapping[str, float] | Literal["balanced", "auto"]
"""The shift of a split network, for all layers or by layer; see `dmn.explain.SplitExplainer`."""
LayerAlphas = tuple[tuple[str, float], ...]
"""The shift by layer as pairs, which can be hashed."""


class BackwardConfig(NamedTuple):
    """The options of a pass back through a pair; maps with equal options share one pass.

    A trained pair takes the first three. The others are for split networks; see "The split of a
    trained network" in the documentation.

    Attributes:
        backward: "gradient", or "relevance" for LRP: epsilon-LRP in a trained pair, the rule that
            alpha determines in a split network.
        output: Where the pass starts: "class" is the chosen logit, "contrast" that logit minus the
            mean of all, "all" the mean of all; for "clrp" and "sglrp" see `output_relevance`. None
            is "contrast" for the relevance of a split network with several logits, and "class"
            otherwise.
        epsilon: Stabilises relevance.
        alpha: The shift, in [0, 0.5]. For "gradient", 0 is the true gradient of the streams and 0.5
            the plain one. For "relevance", 0 is the z+ rule and 0.5 the epsilon rule. One number
            for all layers; a pair for the first and the last convolution, linear in depth; pairs of
            a layer's name and its shift, 0 for other layers; "balanced" (gradient) or "auto"
            (relevance). None is 0, and "auto" for relevance.
        head_alpha: The shift of relevance after the last convolution, unless alpha names layers.
        rho: If alpha is "balanced": the mean of the streams' sensitivities after each shift, as a
            multiple of the mean of the plain gradient.
        theta: Share of min(p, n) kept after each activation, in [0, 1]; None for the network's own.
        threshold: Recentre only where p + n exceeds it; None for the network's own.
        pool: "winner" or "convex", the form of max pooling; None for the network's own.

    Examples:
        >>> config = BackwardConfig("relevance", alpha=(0.1, 0.4))
        >>> config.output, config.alpha
        ('class', (0.1, 0.4))
        >>> config == BackwardConfig("relevance", alpha=(0.1, 0.4))
        True
    """

    backward: Backward = "gradient"
    output: OutputSelector | None = "class"
    epsilon: float = EPSILON
    alpha: float | tuple[float, float] | LayerAlphas | Literal["balanced", "auto"] | None = None
    head_alpha: float = 0.5
    rho: float = 1.0
    theta: float | None = None
    threshold: float | None = None
    pool: Pool | None = None


GRADIENT = BackwardConfig()
"""The default options of a pass: the gradient of the class's logit."""


class Reading(NamedTuple):
    """What one side of a pair holds at a layer, and how the chosen logit depends on it.

    A layer has a part p and may have a part n: the complement of a paired input, or the negative
    stream of a split network.

    Attributes:
        p: Activations (B, C, H, W).
        n: Activations (B, C', H, W); C' is 0 if the layer has no part n.
        delta_p: The sensitivity to p: the gradient of the logit or, for "relevance", the relevance
            of a unit divided by its activation. It has the shape of p.
        delta_n: The sensitivity to n, in the shape of n.

    Examples:
        >>> pair = dmn.load("mnist_paired").model
        >>> read = pair.read(torch.rand(2, 1, 28, 28), torch.tensor([3, 5]), ["input"])
        >>> p, n, delta_p, delta_n = read["input"]["g"]
        >>> p.shape, torch.allclose(n, 1 - p)
        (torch.Size([2, 1, 28, 28]), True)
    """

    p: Tensor
    n: Tensor
    delta_p: Tensor
    delta_n: Tensor


class Pair(Protocol):
    """What explainers need of a network f = g - h: its sides, and layers that can be read.

    Attributes:
        layers: Names of the layers that can be read, from "input" to the last that is an image.

    Examples:
        >>> pair = dmn.load("mnist_paired").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> torch.allclose(pair(x), pair.g(x) - pair.h(x))
        True
        >>> pair.layers[:3]
        ('input', 'stem', 'stem.conv')
    """

    @property
    def layers(self) -> tuple[str, ...]: ...  # noqa: D102

    def modules(self) -> Iterator[nn.Module]:
        """Yield the modules, as `torch.nn.Module.modules`."""

    def g(self, x: Tensor) -> Tensor:
        """Return the evidence for each class, (B, K)."""

    def h(self, x: Tensor) -> Tensor:
        """Return the evidence against each class, (B, K)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits g(x) - h(x), (B, K)."""

    def read(
        self,
        x: Tensor,
        target: Tensor | None,
        layers: Sequence[str],
        config: BackwardConfig = GRADIENT,
        streams: Collection[Stream] = ("g", "h"),
    ) -> dict[str, dict[Stream, Reading]]:
        """Read layers, for one target class per image, by one pass forward and one back.

        Args:
            x: Images (B, C, H, W).
            target: Class indices (B,); None for the predicted classes.
            layers: Names, some of `layers`.
            config: The options of the pass back.
            streams: Which sides to read. "g-h" is their difference if one pass can give it,
                otherwise both sides.

        Returns:
            The readings by layer and by stream.

        Raises:
            UnknownNameError: for a layer that does not exist or is not an image.
            OptionError: for an option of the pass that this kind of pair does not take.
        """


def is_pair(network: object) -> TypeGuard[Pair]:
    """Return whether a network is a difference g - h that can be read; see `Pair`.

    Use it in place of `isinstance`, which does not see submodules from Python 3.12 on.

    Examples:
        >>> is_pair(dmn.load("mnist_paired").model), is_pair(nn.Flatten())
        (True, False)
    """
    return all(hasattr(network, name) for name in ("g", "h", "layers", "read"))


def check_layers(layers: Iterable[str], known: Container[str], shown: Iterable[str]) -> None:
    """Refuse names of layers that a pair does not have.

    Args:
        layers: Names.
        known: The names that the pair has.
        shown: The names that the error message offers.

    Raises:
        UnknownNameError: for the first unknown name; lists the names to choose from.
    """
    for layer in layers:
        if layer not in known:
            raise UnknownNameError(f"no layer {layer!r}; there are {', '.join(shown)}")
