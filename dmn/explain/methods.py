"""SplitCAM, SplitGrad and SplitLRP: maps read off a pair f = g - h, trained or split.

Each gives three maps: evidence (of g), counter-evidence (of h) and their difference.
"""

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
    """The maps of both sides of a pair and of their difference, each (B, 1, H, W), float32.

    The difference is computed separately: in deep split networks it is lost in what g and h share.
    """

    g: Tensor
    h: Tensor
    difference: Tensor


class SplitExplainer:
    """A map of a pair at one layer; subclasses define how a reading becomes a map.

    Args:
        pair: The network as g - h; a trained difference network or a split one.
        layer: Name of the layer to read; "input" for the image. None for the image but, of SplitCAM
            on a split network that was given an example, for its `cam_layer`.
        stream: "g" for evidence, "h" for counter-evidence, "g-h" for their difference.
        part: Of the layer, "p", "n", their sum or their difference. In a split network they are its
            streams. At a paired input p is the image (ink), and n its complement (blank). At all
            other layers of a trained pair there is only p.
        contrast: Remove evidence for all classes: start from the logit minus the mean of all; for
            relevance, subtract the map of that mean, each divided by its own L1 norm. "mean" is one
            pass from the logit minus the mean, for relevance too; which alone also takes "clrp"
            and "sglrp", one pass from the start that `dmn.nn.output_relevance` gives. None for
            False but, of a split network's relevance, "mean" if there are several logits.
        absolute: Return magnitudes.
        alpha: For split networks, as the options below: the shift, in [0, 0.5]. It takes the
            streams' sensitivities from their own gradient (0) to the plain one (0.5), and relevance
            from the z+ rule (0) to the epsilon rule (0.5). One number; one per layer, by its name,
            0 for the rest; or a pair, for the first and the last convolution, linear in depth. Of
            sensitivities also "balanced", of relevance "auto". None for 0 and "auto".
        head_alpha: The shift of relevance after the last convolution, where alpha names no layer.
        rho: The streams' share if alpha is "balanced".
        theta: Share of min(p, n) kept after activations, in [0, 1]; None for the network's own.
        threshold: Recentre only where p + n exceeds it; None for the network's own.
        pool: Form of max pooling; None for the network's own.
        epsilon: Stabilises relevance.

    Raises:
        UnknownNameError: names the layers that there are; if called, for a layer that is no image.
        OptionError: for a contrast that the method does not take; when called for a part "n" that
            the layer does not have, or with an option that is not for this kind of pair.
        TargetError: when called for a class that does not exist, or for contrast with one class.
    """

    backward: ClassVar[Backward] = "gradient"
    at_cam_layer: ClassVar[bool] = False  # whether it reads the pair's `cam_layer` by default

    def __init__(
        self,
        pair: Pair,
        layer: str | None = None,
        stream: Stream = "g-h",
        part: StreamPart = "p+n",
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
        self.pair, self.stream, self.part = pair, stream, part
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
        """Explain images of shape (B, C, H, W); returns maps of shape (B, 1, H, W), float32.

        Positive values are for the target in the streams g and g-h, and against it in h.
        """
        (maps,) = explain_together([self], x, target)
        return maps

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
        """Return one stream's map.

        Args:
            read: Returns the readings of a pass over a pair.
            stream: Which side.
            x: The images, whose size the map gets.
        """
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
            raise OptionError(
                f"layer {self.layer!r} has no part n; only paired inputs and split networks have"
            )
        sign = -1 if self.part == "p-n" else 1
        values, sensitivities = {
            "p": (p, delta_p),
            "n": (n, delta_n),
        }.get(self.part) or (torch.cat([p, n], 1), torch.cat([delta_p, sign * delta_n], 1))
        return self.reduce(values, sensitivities)


def explain_together(
    explainers: Collection[SplitExplainer], x: Tensor, target: Target = None
) -> list[Tensor]:
    """Explain the same images by many explainers, with one pass for all of equal options.

    Args:
        explainers: Of one pair or several.
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
    """Explain images by a pair itself.

    Args:
        pair: A trained difference network or a split one.
        x: Images (B, C, H, W).
        target: Class index, one per image, or None for the predicted class.
        method: "SplitCAM", "SplitGrad" or "SplitLRP", in any case.
        **options: Of the method, such as `layer` and `stream`: see `SplitExplainer`.

    Returns:
        Maps (B, 1, H, W), float32; positive values are for the target.

    Raises:
        UnknownNameError: names the methods, or the layers, that there are.
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
    classes = {key: resolve_target(pair, x, target) for key, pair in pairs.items()}
    readings = {}
    for (key, config), (layers, wanted) in passes.items():
        with misfits_explained(pairs[key], x):
            readings[key, config] = pairs[key].read(
                x, classes[key], tuple(layers), config, tuple(wanted)
            )
    return lambda pair, config: readings[id(pair), config]


class _Pass(NamedTuple):
    """The layers and streams of one pass; dictionaries keep the order."""

    layers: dict[str, None]
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
    """Activation times sensitivity, summed over channels (SplitCAM).

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026.
    """

    at_cam_layer = True

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Weigh each unit by its sensitivity and sum over the channels."""
        return (values * sensitivities).sum(dim=1, keepdim=True)


@register("split", defaults=SHIFTED)
class SplitGrad(SplitExplainer):
    """Channel mean of the sensitivities (SplitGrad).

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026.
    """

    def reduce(self, values: Tensor, sensitivities: Tensor) -> Tensor:
        """Average the sensitivities over the channels."""
        return sensitivities.mean(dim=1, keepdim=True)


@register("split", defaults={"stream": "g-h"}, featured=True)
class SplitLRP(SplitCAM):
    """Layer-wise relevance propagation on both sides (SplitLRP).

    Of a split network it is LRP-gamma with gamma = 1 / alpha - 2, for any activation and any graph.
    Relevance is conserved up to the share of the biases and of epsilon. By default alpha is found
    from the resolution of each layer, so that contributions cancel within a bound.

    Of a trained pair, whose weights have one sign, it is epsilon-LRP. If every activation is
    piecewise linear, it equals SplitCAM at the same layer there.

    Example:
        >>> model = split(net, images)
        >>> maps = SplitLRP(model)(images)  # (B, 1, H, W), of the predicted classes

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026; the rules are of Bach et al. 2015,
        eq. 58, and Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019.
    """

    backward = "relevance"
    at_cam_layer = False
