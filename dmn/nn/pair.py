"""The interface of a network as a difference f = g - h, through which explainers read it."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeGuard

from torch import Tensor, nn

from dmn.errors import UnknownNameError
from dmn.nn.output import EPSILON, OutputSelector

Backward = Literal["gradient", "relevance"]
Stream = Literal["g", "h", "g-h"]
Pool = Literal["winner", "convex"]
Alpha = float | Sequence[float] | Mapping[str, float] | Literal["balanced", "auto"]
LayerAlphas = tuple[tuple[str, float], ...]  # a mapping as pairs, which can be hashed


class BackwardConfig(NamedTuple):
    """How sensitivities are carried back; maps with equal configs share one pass.

    A trained pair takes the first three; the others are for split networks, see docs/concepts/split.md.

    Attributes:
        backward: "gradient", or "relevance" for LRP through every layer above: of a trained pair
            epsilon-LRP, of a split network by the rule that alpha determines.
        output: Where it starts: "class", the chosen logit; "contrast", that logit minus the mean
            of all; "all", the mean of all; "clrp" or "sglrp", see `output_relevance`. None for
            "class" but, of a split network's relevance, "contrast" if there are several logits.
        epsilon: Stabilises relevance.
        alpha: Shift in [0, 0.5]. Of sensitivities: 0 for the true gradient of the streams, 0.5 for
            the plain one. Of relevance: 0 for the z+ rule, 0.5 for the epsilon rule. One for all
            layers; a pair for the first and the last convolution, linear in depth; pairs of a layer
            and its shift, 0 for the rest; "balanced", of sensitivities; "auto", of relevance. None
            for 0 and "auto".
        head_alpha: Shift of relevance after the last convolution, where alpha names no layer.
        rho: With alpha "balanced", the mean of the streams' sensitivities after each shift, as a
            multiple of the plain gradient's.
        theta: Share of min(p, n) that is kept after each activation, in [0, 1]; None for the
            network's own.
        threshold: Recentre only where p + n exceeds it; None for the network's own.
        pool: Form of max pooling; None for the network's own.
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


class Reading(NamedTuple):
    """The activation of one side of a pair at a layer, and the sensitivity of its chosen logit.

    A layer has a part p, and may have a part n: the complement of a paired input, or the negative
    stream of a split network. Where there is no n, it has no channels.

    Attributes:
        p: (B, C, H, W).
        n: (B, C', H, W); C' is 0 where there is no such part.
        delta_p: Sensitivity to p: the gradient of the logit or, for "relevance", the relevance of a
            unit divided by its activation.
        delta_n: Sensitivity to n.
    """

    p: Tensor
    n: Tensor
    delta_p: Tensor
    delta_n: Tensor


class Pair(Protocol):
    """A network f = g - h with named layers.

    Attributes:
        layers: Names of layers to read, from "input" to the last one that is an image.
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
        target: Tensor,
        layers: Sequence[str],
        config: BackwardConfig = GRADIENT,
        streams: Collection[Stream] = ("g", "h"),
    ) -> dict[str, dict[Stream, Reading]]:
        """Read layers, for one target class per image, by one pass forward and one back.

        Args:
            x: Images (B, C, H, W).
            target: Class indices (B,).
            layers: Some of `layers`.
            config: What is carried back.
            streams: Which sides to read; "g-h" is their difference if one pass can give it,
                else both.

        Raises:
            UnknownNameError: if there is no such layer, or it is not an image.
            OptionError: if an option of the pass is not for this kind of pair.
        """


def is_pair(network: object) -> TypeGuard[Pair]:
    """Return whether a network is a difference g - h that can be read.

    From Python 3.12 on `isinstance` does not see submodules, which g and h may be.
    """
    return all(hasattr(network, name) for name in ("g", "h", "layers", "read"))


def check_layers(layers: Iterable[str], known: Container[str], shown: Iterable[str]) -> None:
    """Refuse names of layers that a pair does not have.

    Args:
        layers: Names.
        known: The names that the pair has.
        shown: The names that the error message offers instead.

    Raises:
        UnknownNameError: names the first that is unknown, and what there is.
    """
    for layer in layers:
        if layer not in known:
            raise UnknownNameError(f"no layer {layer!r}; there are {', '.join(shown)}")
