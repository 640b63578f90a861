"""SplitCAM, SplitGrad and SplitLRP: maps read off a pair f = g - h, trained or split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.errors import OptionError
from dmn.explain.registry import find_method, register
from dmn.explain.resize import resize
from dmn.explain.target import Target, resolve_target
from dmn.nn import (
    EPSILON,
    Alpha,
    Backward,
    BackwardConfig,
    Contrast,
    OutputSelector,
    Pair,
    Pool,
    Reading,
    Stream,
    check_images,
    check_layers,
    contrast_outputs,
    is_pair,
    misfits_explained,
)

StreamPart = Literal["p", "n", "p+n", "p-n"]
Readings = Mapping[str, Mapping[Stream, Reading]]  # by layer
ALPHA = 0.48  # from validation scenes of a ResNet18 and a VGG16


class StreamMaps(NamedTuple):
    """The maps of g, of h and of their difference, each (B, 1, H, W), float32.

    The difference has its own pass: in a deep split network g and h are too large to subtract.

    Examples:
        >>> maps = SplitCAM(dmn.load("mnist_paired").model).streams(torch.rand(2, 1, 28, 28))
        >>> maps.g.shape, torch.allclose(maps.difference, maps.g - maps.h, atol=1e-5)
        (torch.Size([2, 1, 28, 28]), True)
    """

    g: Tensor
    h: Tensor
    difference: Tensor


class SplitExplainer:
    """Base class of methods that map one layer of a pair g - h; subclasses define `reduce`.

    Args:
        pair: The network as g - h: a trained difference network or a split one.
        layer: Name of the layer to read; "input" is the image. The default is the image, except for
            SplitCAM on a split network that was given an example: it reads the pair's `cam_layer`.
        stream: "g" for evidence, "h" for counter-evidence, "g-h" for their difference.
        part: "p", "n", "p+n" or "p-n". The streams of a split network are p and n. At a paired
            input, p is the image (ink) and n is its complement (blank). All other layers of a
            trained pair have p only. None is "p" for SplitGrad and "p+n" for the others.
        contrast: Remove what speaks for all classes. "mean" starts from the logit minus the mean.
            True does so, too; for relevance it subtracts the map of the mean, both divided by their
            L1 norms. "clrp" and "sglrp" are for relevance; see `dmn.nn.output_relevance`. None is
            "mean" for the relevance of a split network with several logits, otherwise False.
        absolute: Return magnitudes.
        alpha: The shift, in [0, 0.5]; for split networks, like most options below. It leads from
            each stream's own gradient (0) to the plain one (0.5), and relevance from the z+ rule
            (0) to the epsilon rule (0.5). One number, a mapping from layers to numbers (0 for
            others), a pair for the first and the last convolution (linear in depth), "balanced"
            (gradient) or "auto" (relevance). None is 0, and "auto" for relevance.
        head_alpha: The shift of relevance after the last convolution, unless alpha names layers.
        rho: The streams' share if alpha is "balanced".
        theta: Share of min(p, n) kept after activations, in [0, 1]; None for the network's own.
        threshold: Recentre only where p + n exceeds it; None for the network's own.
        pool: "winner" or "convex", the form of max pooling; None for the network's own.
        epsilon: Stabilises relevance.

    Raises:
        UnknownNameError: for a layer that does not exist or, when called, holds no image.
        OptionError: for an option that the method, the layer or this kind of pair does not take.
        TargetError: when called for a class that does not exist, or for contrast with one class.

    Examples:
        >>> SplitCAM(dmn.load("mnist_paired").model, "stage2_1", stream="g", part="p")
        SplitCAM at stage2_1, part p
    """

    backward: ClassVar[Backward] = "gradient"
    at_cam_layer: ClassVar[bool] = False  # whether it reads the pair's `cam_layer` by default
    usual_part: ClassVar[StreamPart] = "p+n"

    def __init__(
        self,
        pair: Pair,
        layer: str | None = None,
        stream: Stream = "g-h",
        part: StreamPart | None = None,
        *,
        contrast: Contrast | None = None,
        absolute: bool = False,
        alpha: Alpha | None = None,
        head_alpha: float = 0.5,
        rho: float = 1.0,
        theta: float | None = None,
        threshold: float | None = None,
        pool: Pool | None = None,
        epsilon: float = EPSILON,
    ) -> None:
        if not is_pair(pair):
            kind = type(pair).__name__
            raise OptionError(
                f"{type(self).__name__} explains g - h, and {kind} is no such difference; give it "
                f"a split network (dmn.split.split), or name it in dmn.split.ResplitExplainer"
            )
        usual = getattr(pair, "cam_layer", "input") if self.at_cam_layer else "input"
        self.layer: str = layer or usual
        check_layers([self.layer], pair.layers, pair.layers)
        self.pair, self.stream, self.part = pair, stream, part or self.usual_part
        self.contrast, self.absolute = contrast, absolute
        config = BackwardConfig(
            self.backward,
            "class",
            epsilon,
            _hashable(alpha),
            head_alpha,
            rho,
            theta,
            threshold,
            pool,
        )
        _require_hashable(config)
        outputs: tuple[OutputSelector | None, ...] = (None,)
        if contrast is not None:
            outputs = contrast_outputs(contrast, type(self).__name__, self.backward == "relevance")
        self.passes = tuple(config._replace(output=output) for output in outputs)

    def __repr__(self) -> str:
        return f"{type(self).__name__} at {self.layer}, part {self.part}"

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images (B, C, H, W) by maps (B, 1, H, W), float32.

        Positive values speak for the target in the streams g and g-h, and against it in h.
        """
        return explain_together([self], x, target)[0]

    def streams(self, x: Tensor, target: Target = None) -> StreamMaps:
        """Return the maps of both sides and of their difference.

        Args:
            x: Images (B, C, H, W).
            target: Class index, one per image, or None for the predicted class.
        """
        all_streams: tuple[Stream, ...] = ("g", "h", "g-h")
        read = _read_together([(self, all_streams)], x, target)
        return StreamMaps(*(self.map(read, stream, x) for stream in all_streams))

    def map(
        self, read: Callable[[Pair, BackwardConfig], Readings], stream: Stream, x: Tensor
    ) -> Tensor:
        """Return one stream's map, in the size of images x, from what `read` returns for a pass."""
        values = [
            self._values(read(self.pair, config)[self.layer], stream) for config in self.passes
        ]
        if len(values) > 1:
            values = [F.normalize(value.flatten(1), p=1).view_as(value) for value in values]
        (first, *subtracted) = values
        result = first - subtracted[0] if subtracted else first
        return _to_image(result.abs() if self.absolute else result, x)

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Reduce a part's values and sensitivities, both (B, C, h, w), to a map (B, 1, h, w)."""
        raise NotImplementedError

    def _values(self, readings: Mapping[Stream, Reading], stream: Stream) -> Tensor:
        if stream in readings:
            return self._reduced(readings[stream])
        return self._reduced(readings["g"]) - self._reduced(readings["h"])

    def _reduced(self, reading: Reading) -> Tensor:
        p, n, delta_p, delta_n = reading
        if self.part == "n" and not n.shape[1]:
            has = "only paired inputs and split networks have"
            raise OptionError(f"layer {self.layer!r} has no part n; {has}")
        sign = -1 if self.part == "p-n" else 1
        values, sensitivities = {"p": (p, delta_p), "n": (n, delta_n)}.get(self.part) or (
            torch.cat([p, n], 1),
            torch.cat([delta_p, sign * delta_n], 1),
        )
        return self.reduce(values, sensitivities)


def explain_together(
    explainers: Collection[SplitExplainer], x: Tensor, target: Target = None
) -> list[Tensor]:
    """Explain the same images by several explainers; those with equal options share a pass.

    Args:
        explainers: They may read one pair or several.
        x: Images (B, C, H, W).
        target: Class index, one per image, or None for the predicted class.

    Returns:
        One map (B, 1, H, W), float32, for each explainer.
    """
    read = _read_together([(explainer, (explainer.stream,)) for explainer in explainers], x, target)
    return [explainer.map(read, explainer.stream, x) for explainer in explainers]


def explain(
    pair: Pair, x: Tensor, target: Target = None, method: str = "SplitCAM", **options: Any
) -> Tensor:
    """Explain images by the pair that classifies them.

    Args:
        pair: A trained difference network or a split one.
        x: Images (B, C, H, W).
        target: Class index, one per image, or None for the predicted class.
        method: "SplitCAM", "SplitGrad" or "SplitLRP", in any case.
        **options: Options of the method, such as `layer` and `stream`; see `SplitExplainer`.

    Returns:
        Maps (B, 1, H, W), float32. Positive values speak for the target.

    Raises:
        UnknownNameError: for an unknown method or layer; names those that exist.
    """
    return find_method(method, "split").factory(pair, **options)(x, target)


def _read_together(
    requests: Iterable[tuple[SplitExplainer, Iterable[Stream]]], x: Tensor, target: Target
) -> Callable[[Pair, BackwardConfig], Readings]:
    """Read every pair once for each pass that the explainers need."""
    check_images(x)
    pairs: dict[int, Pair] = {}  # by id, for a pair need not be hashable
    passes: dict[tuple[int, BackwardConfig], _Pass] = {}
    for explainer, streams in requests:
        pairs[id(explainer.pair)] = explainer.pair
        for config in explainer.passes:
            request = passes.setdefault((id(explainer.pair), config), _Pass({}, {}))
            request.layers[explainer.layer] = None
            request.streams.update(dict.fromkeys(streams))
    single = target is None and len(passes) == len(pairs)  # each pass predicts its classes itself
    chosen = {k: None if single else resolve_target(p, x, target) for k, p in pairs.items()}
    readings = {}
    for (key, config), (layers, wanted) in passes.items():
        with misfits_explained(pair := pairs[key], x):
            readings[key, config] = pair.read(x, chosen[key], tuple(layers), config, tuple(wanted))
    return lambda pair, config: readings[id(pair), config]


class _Pass(NamedTuple):
    layers: dict[str, None]  # in order
    streams: dict[Stream, None]


def _hashable(alpha: Alpha | None) -> Any:
    """Return shifts by layer, and a pair of shifts, as tuples."""
    if isinstance(alpha, Mapping):
        return tuple(alpha.items())
    return tuple(alpha) if isinstance(alpha, list) else alpha


def _require_hashable(config: BackwardConfig) -> None:
    """Refuse options that cannot be hashed, such as lists, as passes are found by them."""
    for name, value in config._asdict().items():
        try:
            hash(value)
        except TypeError:
            raise OptionError(f"{name} is {value!r}; give a number or a name") from None


def _to_image(values: Tensor, x: Tensor) -> Tensor:
    values = resize(values, x.shape[2:])
    if values.dtype == torch.float64:  # what does not fit is right up to a factor
        largest = torch.finfo(torch.float32).max / 4
        values = values / (values.abs().amax() / largest).clamp(min=1)
    return values.float()


SHIFTED = {"stream": "g", "part": "p", "alpha": ALPHA}


@register("split", needs_layer=True, defaults=SHIFTED, featured=True)
class SplitCAM(SplitExplainer):
    """Activation times sensitivity, summed over channels; see `SplitExplainer` for the options.

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026.

    Examples:
        >>> SplitCAM(dmn.load("mnist_paired").model, "stage2_1")(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    at_cam_layer = True

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Weigh each unit by its sensitivity and sum over the channels."""
        return (values * sensitivities).sum(dim=1, keepdim=True)


@register("split", defaults=SHIFTED)
class SplitGrad(SplitExplainer):
    """The mean of the sensitivities over channels; see `SplitExplainer` for the options.

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026.

    Examples:
        >>> evidence = SplitGrad(dmn.load("mnist_paired").model, stream="g", part="p")
        >>> bool((evidence(torch.rand(2, 1, 28, 28)) >= 0).all())  # no weight of g is negative
        True
    """

    usual_part = "p"

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Average the sensitivities over the channels."""
        return sensitivities.mean(dim=1, keepdim=True)


@register("split", defaults={"stream": "g-h"}, featured=True)
class SplitLRP(SplitCAM):
    """Layer-wise relevance propagation in g and h; see `SplitExplainer` for the options.

    On a split network it is LRP-gamma with gamma = 1 / alpha - 2, for any activation and any graph.
    Relevance is conserved except for the shares of biases and of epsilon. By default alpha follows
    from the resolution of each layer, so that contributions cancel within a bound.

    On a trained pair, whose weights have one sign, it is epsilon-LRP. If all its activations are
    piecewise linear, SplitLRP equals SplitCAM at the same layer.

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026; the rules are of Bach et al. 2015,
        eq. 58, and Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019.

    Examples:
        >>> from dmn.split import split
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x = torch.rand(2, 1, 8, 8)
        >>> SplitLRP(split(net, x))(x).shape  # for the predicted class of each image
        torch.Size([2, 1, 8, 8])
    """

    backward = "relevance"
    at_cam_layer = False
