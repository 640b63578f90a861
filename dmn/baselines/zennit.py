"""Layer-wise relevance propagation, computed by zennit on a rewritten copy of the model.

The copy is made when the method is created: later training of the model does not change it. Sums,
differences, averages, and constant scales and shifts are modules in it, with rules of their own.
Operations that only move values, such as max pooling, propagate relevance by their gradient; a
network with other operations without a rule is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmn.baselines.base import Baseline, contrast_maps
from dmn.baselines.rewrite import (
    OWN,
    Average,
    Elementwise,
    Negate,
    for_rules,
    refuse_without_rule,
    relative_depths,
)
from dmn.canonize import canonize, hookable
from dmn.canonize.affine import ScaleShift
from dmn.errors import OptionError, required
from dmn.explain.registry import register
from dmn.nn import OutputSelector, output_relevance, predict_logits
from dmn.rules import Rule

STABILIZER = 1e-6  # zennit's
_Rules = list[Any]  # pairs of module types and zennit's rule for them


def _zennit() -> Any:
    with required("zennit"):
        import zennit.composites
        import zennit.layer
        import zennit.rules
        import zennit.types
    return zennit


@dataclass(eq=False, repr=False)
class LRP(Baseline):
    """Relevance of the target's logit, propagated back by rules that subclasses choose.

    Args:
        model: Takes images (B, C, H, W) and returns logits (B, K); see `dmn.canonize.canonize`.
        canonize: Fold BatchNorm into adjacent layers.
        zero_params: "bias" leaves biases out of the rules. Relevance is then conserved, but it is
            divided by sums that may be close to 0. None lets biases absorb relevance, as in zennit
            and in publications on canonization.
        contrast: True subtracts the map of the mean of all logits, after dividing both maps by
            their L1 norms. "mean", "clrp" and "sglrp" are one pass from the start that
            `dmn.nn.output_relevance` returns.
        absolute: Return magnitudes.

    Raises:
        UnsupportedError: if the model cannot be written as a graph or canonized, or has operations
            without a rule, such as attention or GroupNorm; lists them.
        NotEqualError: on the first call, if the copy is not the same function.
        MissingPackageError: without zennit.

    Source: Bach et al., On Pixel-Wise Explanations, PLOS ONE 2015; with canonization Motzkus, Weber
        & Lapuschkin 2022.
    """

    _: KW_ONLY
    canonize: bool = True
    zero_params: Literal["bias"] | None = None

    propagates_relevance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _zennit()
        super().__post_init__()

    def _begin(self, example: Tensor | None = None) -> None:
        super()._begin(example)
        zennit = _zennit()
        rules = [((Negate, Elementwise), zennit.rules.Pass()), ((Average,), zennit.rules.Norm())]
        self.composite = self.compose(zennit, rules)

    def prepare(self, example: Tensor | None = None) -> nn.Module:
        """Return a copy with a module for each operation that has a rule."""
        rewrite, types = canonize if self.canonize else hookable, _zennit().types
        kinds = (types.Linear, types.AvgPool, types.Activation, _BatchNorm)

        def has_rule(target: Any, rule: Rule | str) -> bool:
            if isinstance(rule, str):  # zennit supports some activations that the split does not
                no_attention = not isinstance(target, nn.MultiheadAttention)
                return isinstance(target, (types.Activation, *OWN)) and no_attention
            return rule.moves or isinstance(target, kinds)

        network = for_rules(rewrite(self.model, example), _zennit().layer.Sum, kinds)
        refuse_without_rule(network, has_rule, type(self).__name__)
        return network

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return a composite of zennit with these rules first."""
        raise NotImplementedError

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Propagate relevance back to images; see `Baseline.attribute`."""
        with self.composite.context(self.network):
            logits = predict_logits(self.network, x)
            starts = [self.start(logits.detach(), target, output) for output in self.outputs]
            grads = [torch.autograd.grad(logits, x, r, retain_graph=True)[0] for r in starts]
        return contrast_maps([grad.sum(dim=1, keepdim=True) for grad in grads])

    def start(self, logits: Tensor, target: Tensor, output: OutputSelector) -> Tensor:
        """Return the relevance of each logit, (B, K), that a pass starts with."""
        return output_relevance(logits, target, output)


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPEpsilon(LRP):
    """LRP by the epsilon rule in every layer; on canonized ReLU networks about input x gradient.

    Args:
        epsilon: Added to each denominator, with the denominator's sign; see `LRP` for the rest.

    Source: Bach et al. 2015, eq. 58.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> x = torch.rand(1, 1, 2, 2)
        >>> torch.allclose(LRPEpsilon(net)(x, target=1).sum(), net(x)[0, 1], rtol=1e-3)  # conserved
        True
    """

    epsilon: float = 1e-6

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return the epsilon rule for linear layers."""
        linear = zennit.rules.Epsilon(self.epsilon, self.zero_params)
        return _by_layer(zennit, rules, ((zennit.types.Linear,), linear))


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPGamma(LRP):
    """LRP by the gamma rule, which favours positive weights, in convolutions; epsilon elsewhere.

    Args:
        gamma: The strength, >= 0; at 0 it is the epsilon rule. A pair (image, last) changes
            linearly with depth, from the first convolution to the last. The depth of a convolution
            is the number of convolutions on the longest path from the image.

    Raises:
        OptionError: unless gamma is a number >= 0 or two of them.

    Source: Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019, who use the rule
        in lower layers, and a smaller gamma above.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> LRPGamma(net, gamma=(0.5, 0.0))(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    gamma: float | Sequence[float] = 0.25

    def __post_init__(self) -> None:
        self.bounds = _gamma_bounds(self.gamma)
        super().__post_init__()

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return the gamma rule for convolutions and the epsilon rule for linear layers."""
        image, last = self.bounds

        def gamma(depth: float) -> Any:
            strength = image + (last - image) * depth
            return zennit.rules.Gamma(strength, zero_params=self.zero_params)

        epsilon = zennit.rules.Epsilon(zero_params=self.zero_params)
        layers = [((zennit.types.Convolution,), gamma(0)), ((nn.Linear,), epsilon)]
        by_layer = _by_layer(zennit, rules, *layers)
        if image == last:
            return by_layer
        assert isinstance(self.network, fx.GraphModule), "`prepare` rewrites the model"
        depths = relative_depths(self.network, zennit.types.Convolution)
        by_path = [((path,), gamma(depth)) for path, depth in depths.items()]
        by_depth = zennit.composites.NameMapComposite(by_path)
        return zennit.composites.MixedComposite([by_depth, by_layer])


def _gamma_bounds(gamma: float | Sequence[float]) -> tuple[float, float]:
    """Return the strengths at the first and at the last convolution."""
    bounds = gamma if isinstance(gamma, list | tuple) else (gamma, gamma)
    numbers = [
        float(bound)
        for bound in bounds
        if isinstance(bound, Real) and not isinstance(bound, bool) and 0 <= float(bound) < math.inf
    ]
    if not len(numbers) == len(bounds) == 2:
        raise OptionError(
            f"gamma is {gamma!r}; give a number from 0 on, or two of them: at the first and at the "
            "last convolution"
        )
    image, last = numbers
    return image, last


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPEpsilonPlus(LRP):
    """LRP by the z+ rule, only positive contributions, in convolutions; epsilon in linear layers.

    Source: Kohlbrenner et al., Towards Best Practice in Explaining Neural Network Decisions with
        LRP, 2020.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> LRPEpsilonPlus(net, zero_params="bias")(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return zennit's composite of this name."""
        rules = _with_norms(zennit, rules)
        return zennit.composites.EpsilonPlus(
            stabilizer=_stabilizer(self.model), layer_map=rules, zero_params=self.zero_params
        )


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPEpsilonAlpha2Beta1(LRP):
    """LRP by the alpha2-beta1 rule in convolutions; epsilon in linear layers.

    The rule takes twice the positive contributions minus the negative ones.

    Source: Bach et al. 2015, eq. 60; Kohlbrenner et al. 2020.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> LRPEpsilonAlpha2Beta1(net, contrast=True)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return zennit's composite of this name."""
        rules = _with_norms(zennit, rules)
        return zennit.composites.EpsilonAlpha2Beta1(
            stabilizer=_stabilizer(self.model), layer_map=rules, zero_params=self.zero_params
        )


@register("post-hoc")
@dataclass(eq=False, repr=False)
class ExcitationBackprop(LRP):
    """Only positive contributions in every layer, from a relevance of 1 at the target.

    BatchNorm that is not folded, and other constant scales, propagate relevance by their gradient,
    as in zennit. In the other methods of LRP they pass it on unchanged.

    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> maps = ExcitationBackprop(net, zero_params="bias")(torch.rand(2, 1, 8, 8))
        >>> bool((maps >= 0).all()), maps.sum(dim=(1, 2, 3))
        (True, tensor([1.0000, 1.0000]))
    """

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return zennit's composite of this name, which has no rule for activations."""
        rules = [*rules, ((zennit.types.Activation,), zennit.rules.Pass())]
        return zennit.composites.ExcitationBackprop(layer_map=rules, zero_params=self.zero_params)

    def start(self, logits: Tensor, target: Tensor, output: OutputSelector) -> Tensor:
        """Return the start of other methods with 1 for each logit; "sglrp" has no logit in it."""
        values = logits if output == "sglrp" else torch.ones_like(logits)
        return output_relevance(values, target, output)


def _stabilizer(model: nn.Module) -> float:
    """Return zennit's own stabilizer, or one whose inverse the network's type can hold."""
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    return max(STABILIZER, torch.finfo(dtype).tiny)


def _with_norms(zennit: Any, rules: _Rules) -> _Rules:
    """Add the rule for constant scales and shifts, which pass relevance on unchanged."""
    return [*rules, ((ScaleShift, _BatchNorm), zennit.rules.Pass())]


def _by_layer(zennit: Any, rules: _Rules, *layers: tuple[Any, Any]) -> Any:
    base = zennit.composites.layer_map_base()
    return zennit.composites.LayerMapComposite([*_with_norms(zennit, rules), *base, *layers])
