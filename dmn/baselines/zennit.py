"""Layer-wise relevance propagation, computed by zennit on a copy that its rules fit.

The copy is made once, when a method is: it does not follow the model's later training. Sums,
differences, averages, and constant scales and shifts are modules in it, with rules of their own.
What only moves numbers, such as max pooling, passes relevance on by its gradient; a network with
anything else that no rule is for is refused.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dmn.baselines.base import Baseline, required
from dmn.baselines.rewrite import (
    OWN,
    Average,
    Elementwise,
    Negate,
    for_rules,
    refuse_without_rule,
)
from dmn.canonize import canonize, hookable
from dmn.canonize.affine import ScaleShift
from dmn.explain.registry import register
from dmn.nn import OutputSelector, select_output
from dmn.rules import Rule

_Rules = list[Any]  # of kinds of module, and zennit's rule for them


def _zennit() -> Any:
    with required("zennit"):
        import zennit.composites
        import zennit.layer
        import zennit.rules
        import zennit.types
    return zennit


@dataclass(eq=False, repr=False)
class LRP(Baseline):
    """Relevance of the chosen logit, handed back layer by layer; subclasses say by which rules.

    Args:
        model: Takes images (B, C, H, W), returns logits (B, K); anything `canonize` takes.
        canonize: Fold BatchNorm into the layers beside it. All else is the same without.
        zero_params: "bias" leaves biases out of the rules: relevance is then conserved, but divided
            by sums that may come close to 0. None, as in zennit and in what was published on
            canonization, lets biases absorb their share.
        contrast: Subtract the map of the mean of all logits, each divided by its own L1 norm.
        absolute: Return magnitudes.

    Raises:
        UnsupportedError: where the model cannot be written as a graph.
        UnsupportedError: lists what cannot be canonized; without that, what cannot be hooked; and
            every operation that no rule is for, such as attention or GroupNorm.
        NotEqualError: when first called, if the copy is not the same function.
        MissingPackageError: without zennit.

    Source: Bach et al., On Pixel-Wise Explanations, PLOS ONE 2015; with canonization Motzkus, Weber
        & Lapuschkin 2022.
    """

    _: KW_ONLY
    canonize: bool = True
    zero_params: Literal["bias"] | None = None

    starts_at_logit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        zennit = _zennit()
        super().__post_init__()
        rules = [((Negate, Elementwise), zennit.rules.Pass()), ((Average,), zennit.rules.Norm())]
        self.composite = self.compose(zennit, rules)

    def prepare(self) -> nn.Module:
        """Return a copy with a module for each operation that has a rule."""
        write, types = canonize if self.canonize else hookable, _zennit().types
        kinds = (types.Linear, types.AvgPool, types.Activation, _BatchNorm)

        def has_rule(target: Any, rule: Rule | str) -> bool:
            if isinstance(rule, str):  # zennit knows some activations that split does not
                no_attention = not isinstance(target, nn.MultiheadAttention)
                return isinstance(target, (types.Activation, *OWN)) and no_attention
            return rule.moves or isinstance(target, kinds)

        network = for_rules(write(self.model), _zennit().layer.Sum, kinds)
        refuse_without_rule(network, has_rule, type(self).__name__)
        return network

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return a composite of zennit's, in which these rules come first."""
        raise NotImplementedError

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Propagate relevance back to images; see `Baseline.attribute`."""
        with self.composite.context(self.network):
            logits = self.network(x)
            start = logits.detach() if self.starts_at_logit else 1.0
            wanted: tuple[OutputSelector, ...] = ("class", "all") if self.contrast else ("class",)
            weights = [select_output(logits, target, seed) * start for seed in wanted]
            grads = [torch.autograd.grad(logits, x, w, retain_graph=True)[0] for w in weights]
        maps = [grad.sum(dim=1, keepdim=True) for grad in grads]
        if not self.contrast:
            return maps[0]
        chosen, mean = (F.normalize(each.flatten(1), p=1).view_as(each) for each in maps)
        return chosen - mean


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPEpsilon(LRP):
    """The epsilon rule in every layer; of canonized ReLU networks, about input times gradient.

    Args:
        epsilon: Added to each denominator, with its sign.

    Source: Bach et al. 2015, eq. 58.
    """

    epsilon: float = 1e-6

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return the epsilon rule for linear layers."""
        linear = zennit.rules.Epsilon(self.epsilon, self.zero_params)
        return _by_layer(zennit, rules, ((zennit.types.Linear,), linear))


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPGamma(LRP):
    """The gamma rule in convolutions, which favours positive weights; epsilon in linear layers.

    Args:
        gamma: How much; 0 is the epsilon rule.

    Source: Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019.
    """

    gamma: float = 0.25

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return the gamma rule for convolutions and the epsilon rule for linear layers."""
        gamma = zennit.rules.Gamma(self.gamma, zero_params=self.zero_params)
        epsilon = zennit.rules.Epsilon(zero_params=self.zero_params)
        layers = [((zennit.types.Convolution,), gamma), ((nn.Linear,), epsilon)]
        return _by_layer(zennit, rules, *layers)


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPEpsilonPlus(LRP):
    """Positive contributions only in convolutions (z+); the epsilon rule in linear layers.

    Source: Kohlbrenner et al., Towards Best Practice in Explaining Neural Network Decisions with
        LRP, 2020.
    """

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return zennit's composite of this name."""
        rules = _with_norms(zennit, rules)
        return zennit.composites.EpsilonPlus(layer_map=rules, zero_params=self.zero_params)


@register("post-hoc")
@dataclass(eq=False, repr=False)
class LRPEpsilonAlpha2Beta1(LRP):
    """Twice the positive less the negative contributions in convolutions; epsilon in linear layers.

    Source: Bach et al. 2015, eq. 60; Kohlbrenner et al. 2020.
    """

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return zennit's composite of this name."""
        rules = _with_norms(zennit, rules)
        return zennit.composites.EpsilonAlpha2Beta1(layer_map=rules, zero_params=self.zero_params)


@register("post-hoc")
@dataclass(eq=False, repr=False)
class ExcitationBackprop(LRP):
    """Positive contributions only, in every layer, from 1 at the chosen class: a probability.

    Where they are not folded, BatchNorm and other constant scales hand on their gradient, as in
    zennit; in the other methods here they hand relevance on as it is.

    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016.
    """

    starts_at_logit: ClassVar[bool] = False

    def compose(self, zennit: Any, rules: _Rules) -> Any:
        """Return zennit's composite of this name, which has no rule for activations."""
        rules = [*rules, ((zennit.types.Activation,), zennit.rules.Pass())]
        return zennit.composites.ExcitationBackprop(layer_map=rules, zero_params=self.zero_params)


def _with_norms(zennit: Any, rules: _Rules) -> _Rules:
    """Add the rule of what scales and shifts by constants: relevance is handed on as it is."""
    return [*rules, ((ScaleShift, _BatchNorm), zennit.rules.Pass())]


def _by_layer(zennit: Any, rules: _Rules, *layers: tuple[Any, Any]) -> Any:
    base = zennit.composites.layer_map_base()
    return zennit.composites.LayerMapComposite([*_with_norms(zennit, rules), *base, *layers])
