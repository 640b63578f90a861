"""What was measured about a split network on given images, as a table saved with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.graph.attention import without_fast_path
from dmn.nn import BackwardConfig, Reading, eval_mode, frozen, predict_logits
from dmn.rules.linear import bounds
from dmn.rules.scaled import Scaled, aligned, magnitude
from dmn.split.held import counted

NOT_CLAIMED = "not claimed"
SMALLEST = 1e-300  # magnitude, as they are stored as logarithms
SAMPLES = 4
TOLERANCE = 1e-10  # of float64, relative to the largest evidence
LAYERS = 5  # at most, in which the relevance of classes is compared
_SHIFTS = (0.0, 0.4)
_RELEVANCE = {
    "0": BackwardConfig("relevance", alpha=0.0, head_alpha=0.0),
    "auto": BackwardConfig("relevance", alpha="auto"),
}


class Splittable(Protocol):
    """What `certify` needs of a split network; `SplitModel` has it."""

    name: str
    options: BackwardConfig
    network: Any
    held: dict[str, str]
    head: nn.Module | None

    @property
    def layers(self) -> Sequence[str]:
        """Names of layers to read."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K)."""

    def read(self, x: Tensor, target: Tensor, layers: Any, config: Any, streams: Any) -> Any:
        """Read layers; see `dmn.nn.Pair`."""

    def find_image_layers(self, example: Tensor) -> None:
        """Find the layers whose outputs are images."""

    def claims(self, x: Tensor) -> tuple[bool, bool]:
        """Return whether g and h are monotone, and whether convex."""

    def magnitudes(self, x: Tensor) -> dict[str, Scaled]:
        """Return the largest p + n of every layer."""

    def ends(self, p: Tensor, n: Tensor, image: Tensor | None) -> tuple[Scaled, Scaled]:
        """Return g and h as functions of the input's streams."""

    def local_gradient(self, x: Tensor, target: Tensor) -> Tensor:
        """Return autograd's gradient of the network with its coefficients held at the images."""


Ends = Callable[[Tensor, Tensor], tuple[Scaled, Scaled]]
Property = Callable[[Ends, Tensor, Tensor, torch.Generator], bool]


@dataclass(frozen=True)
class Certificate:
    """What holds for a split network, measured on images; printed, it is a table.

    Attributes:
        network: Name of the original's class.
        images: Shape of the images.
        dtype: Type in which the network was run.
        pool: Form of max pooling.
        theta: Share of min(p, n) kept after activations.
        prediction: The largest |f - original|; None if the original no longer exists.
        gradient: The largest difference between the gradient F of the split network and that of
            autograd. If coefficients are held at the image, autograd holds them, too.
        least_weight: The smallest of the weights V + W and V - W, where V is |W| unless loosened.
        monotone: Whether g and h are monotone in the streams: "holds in 4 samples", "FAILS in a
            sample", or "not claimed".
        convex: Whether g and h are convex in the streams, likewise.
        cosines: The cosine of the SplitGrad maps of g and h at the input, by alpha.
        magnitudes: The binary logarithm of the largest s, by layer.
        held: What is held at the image, by the path and the class of the module that has it as a
            coefficient, as in {"block.se (SqueezeExcitation)": "Sigmoid"}. All else is exact and
            monotone everywhere. If anything is held, g and h are monotone and convex for the
            streams of that image only.
        gradient_cosine: The mean cosine between F and the gradient of the network itself; None if
            nothing is held, as they are the same.
        class_cosines: The mean absolute cosine between the relevance in g for different classes, by
            alpha and by layer. Near 1, relevance does not depend on the class. Empty for one logit.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x = torch.rand(4, 1, 8, 8)
        >>> certificate = split(net, x, pool="convex", theta=1.0).certificate(x)
        >>> certificate.prediction, certificate.monotone, certificate.convex
        (0.0, 'holds in 4 samples', 'holds in 4 samples')
        >>> Certificate.from_json(certificate.to_json()) == certificate
        True
    """

    network: str
    images: tuple[int, ...]
    dtype: str
    pool: str
    theta: float
    prediction: float | None
    gradient: float
    least_weight: float
    monotone: str
    convex: str
    cosines: dict[str, float]
    magnitudes: dict[str, float]
    class_cosines: dict[str, dict[str, float]] = field(default_factory=dict)  # not in older ones
    held: dict[str, str] = field(default_factory=dict)
    gradient_cosine: float | None = None

    def __str__(self) -> str:
        """Show it as a table, of each field by layer with a few layers only."""
        layers = list(self.magnitudes)
        top = max(layers, key=lambda name: self.magnitudes[name])
        shown = dict.fromkeys((layers[0], top, layers[-1]))
        rows = [
            ("network", f"{self.network}, {self.dtype}, images {'x'.join(map(str, self.images))}"),
            ("form", f"pool {self.pool}, theta {self.theta:g}"),
            ("largest |f - original|", _format_difference(self.prediction)),
            ("largest |F - autograd's gradient|", _format_difference(self.gradient)),
            ("least effective weight", f"{self.least_weight:g}"),
            ("g, h monotone in the streams", self.monotone),
            ("g, h convex in the streams", self.convex),
            *self._rows_of_held(),
        ]
        rows += [
            (f"cosine of g's map and h's, alpha {a}", f"{c:.4f}") for a, c in self.cosines.items()
        ]
        rows += [
            (f"cosine of classes' relevance at {name}, alpha {a}", f"{cosines[name]:.4f}")
            for a, cosines in self.class_cosines.items()
            for name in _spread(list(cosines), 3)
        ]
        rows += [(f"largest p + n at {name}", f"2^{self.magnitudes[name]:.1f}") for name in shown]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _rows_of_held(self) -> list[tuple[str, str]]:
        """Return how many operations are held, by kind, and how far this changes F."""
        rows = [
            (f"at this image only: {kind}", f"{count}, {what} held")
            for (kind, what), count in counted(self.held).items()
        ]
        if self.gradient_cosine is not None:
            rows.append(("cosine of F and the network's gradient", f"{self.gradient_cosine:.4f}"))
        return rows

    def to_json(self) -> str:
        """Return the certificate as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Return the certificate that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "images": tuple(fields["images"])})


def certify(model: Splittable, original: nn.Module | None, x: Tensor) -> Certificate:
    """Measure what holds for a split network on images; see `SplitModel.certificate`."""
    logits = model(x)
    target = logits.argmax(dim=1)
    whole = model.network if model.head is not None else original or model.network
    own_gradient = _autograd_gradient(whole, x, target)
    expected = model.local_gradient(x, target) if model.held else own_gradient
    gradient, cosines = 0.0, {}
    for alpha in _SHIFTS:
        readings = model.read(x, target, ["input"], BackwardConfig(alpha=alpha), ("g", "h", "g-h"))[
            "input"
        ]
        gradient = max(gradient, magnitude(readings["g-h"].delta_p - expected))
        g, h = (readings[side].delta_p.mean(1).flatten(1) for side in ("g", "h"))
        cosines[f"{alpha:g}"] = float(F.cosine_similarity(g, h, dim=1).mean())
    monotone, convex = model.claims(x)
    sizes = model.magnitudes(x)
    return Certificate(
        network=model.name,
        images=tuple(x.shape),
        dtype=str(x.dtype).removeprefix("torch."),
        pool=str(model.options.pool),
        theta=float(model.options.theta or 0.0),
        prediction=None if original is None else _largest_difference(model, original, x),
        gradient=gradient,
        least_weight=_least_weight(model.network),
        monotone=_check_by_sampling(_is_monotone, model, x) if monotone else NOT_CLAIMED,
        convex=_check_by_sampling(_is_convex, model, x) if convex else NOT_CLAIMED,
        cosines=cosines,
        magnitudes={
            name: math.log2(max(float(size.tensor), SMALLEST)) + size.exponent
            for name, size in sizes.items()
        },
        class_cosines=_class_cosines(model, x, logits),
        held=dict(model.held),
        gradient_cosine=_cosine(expected, own_gradient) if model.held else None,
    )


def _cosine(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine of the gradients of images, in float64."""
    first, second = (gradient.flatten(1).double() for gradient in (one, other))
    return float(F.cosine_similarity(first, second, dim=1).mean())


def _format_difference(value: float | None) -> str:
    if value is None:
        return "not compared: the original is gone; pass it"
    return "0, bit-equal" if value == 0 else f"{value:g}"


def _largest_difference(model: Splittable, original: nn.Module, x: Tensor) -> float:
    with torch.no_grad(), eval_mode(original), frozen(original), without_fast_path():
        output = model(x) if model.head is None else model.head(model(x))
        return magnitude(output - predict_logits(original, x))


def _autograd_gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), eval_mode(model):
        selected = predict_logits(model, x).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(selected, x)
    return gradient


def _class_cosines(model: Splittable, x: Tensor, logits: Tensor) -> dict[str, dict[str, float]]:
    """Return the mean absolute cosine of the relevance of different classes, by alpha and layer.

    The classes are the predicted one, the runner-up, the middle and the last, by image. Where the
    cosine is 1, all classes have the same map.

    Source: Sixt, Granz & Landgraf 2020, "When explanations lie".
    """
    ordered = logits.argsort(dim=1, descending=True, stable=True)
    last = logits.shape[1] - 1
    ranks = sorted({0, min(1, last), (last + 1) // 2, last})
    if len(ranks) == 1:
        return {}
    layers = _spread(_image_layers(model, x), LAYERS)
    cosines = {}
    for alpha, config in _RELEVANCE.items():
        passes = [model.read(x, ordered[:, rank], layers, config, ("g",)) for rank in ranks]
        cosines[alpha] = {
            layer: _mean_cosine([read[layer]["g"] for read in passes]) for layer in layers
        }
    return cosines


def _image_layers(model: Splittable, x: Tensor) -> Sequence[str]:
    """Return the layers whose outputs are images, also where no example was given."""
    same_network = copy(model)  # what it finds is not kept in the model
    same_network.find_image_layers(x)
    return same_network.layers


def _spread(names: Sequence[str], most: int) -> list[str]:
    """Return the first and the last of some names, and others evenly between them."""
    last, steps = len(names) - 1, most - 1
    return list(names) if last < most else [names[step * last // steps] for step in range(most)]


def _mean_cosine(readings: Sequence[Reading]) -> float:
    """Return the mean absolute cosine of relevance over pairs of readings and images."""
    directions = [F.normalize(_relevance(reading), dim=1) for reading in readings]
    cosines = [(a * b).sum(1).abs().mean() for a, b in combinations(directions, 2)]
    return float(torch.stack(cosines).mean())


def _relevance(reading: Reading) -> Tensor:
    """Return the relevance of all units, (B, units), in float64, divided by the largest."""
    p, n, delta_p, delta_n = (part.flatten(1).cpu().double() for part in reading)
    units, sensitivities = torch.cat([p, n], 1), torch.cat([delta_p, delta_n], 1)
    return _divided_by_largest(_divided_by_largest(units) * _divided_by_largest(sensitivities))


def _divided_by_largest(values: Tensor) -> Tensor:
    return values / values.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST)


def _least_weight(network: nn.Module) -> float:
    """Return the least of the weights that streams are multiplied by, V + W and V - W."""
    pairs = ((bound, network.get_parameter(name)) for name, bound in bounds(network).items())
    return min((float((bound - weight.abs()).min()) for bound, weight in pairs), default=0.0)


def _check_by_sampling(holds: Property, model: Splittable, x: Tensor) -> str:
    """Check a property in float64 on random streams, those of the images first."""
    double: Any = deepcopy(model)
    double, x = double.double(), x.double()
    image = x if model.held else None

    def ends(p: Tensor, n: Tensor) -> tuple[Scaled, Scaled]:
        evidence: tuple[Scaled, Scaled] = double.ends(p, n, image)
        return evidence

    generator = torch.Generator().manual_seed(0)
    p, n = x.clamp(min=0), (-x).clamp(min=0)
    always_holds = all(
        holds(ends, p + common, n + common, generator)
        for common in (_noise(x, generator) * scale for scale in (0.0, *[1.0] * (SAMPLES - 1)))
    )
    return f"holds in {SAMPLES} samples" if always_holds else "FAILS in a sample"


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return nonnegative noise, zero for half of the numbers."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).clamp(min=0)
    return noise.to(x.device)


def _is_monotone(ends: Ends, p: Tensor, n: Tensor, generator: torch.Generator) -> bool:
    larger = p + _noise(p, generator), n + _noise(n, generator)
    return all(_exceeds(high, low) for high, low in zip(ends(*larger), ends(p, n), strict=True))


def _is_convex(ends: Ends, p: Tensor, n: Tensor, random: torch.Generator) -> bool:
    other = p + _noise(p, random), _noise(n, random)
    middle = (p + other[0]) / 2, (n + other[1]) / 2
    points = zip(ends(p, n), ends(*other), ends(*middle), strict=True)
    for one, two, between in points:
        (first, second), exponent = aligned([one, two])
        if not _exceeds(Scaled((first + second) / 2, exponent), between):
            return False
    return True


def _exceeds(high: Scaled, low: Scaled) -> bool:
    (larger, smaller), _ = aligned([high, low])
    return bool((larger - smaller).min() >= -TOLERANCE * larger.abs().max())
