"""Layer-wise relevance propagation for transformers, by gradients of a rewritten copy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from dmn.baselines.attention import trace_attention
from dmn.baselines.base import Baseline, contrast_maps
from dmn.baselines.gradient_graph import apply_rules
from dmn.errors import OptionError
from dmn.explain.registry import register
from dmn.nn import output_relevance, predict_logits

SoftmaxRule = Literal["taylor", "constant"]


@register("post-hoc")
@dataclass(eq=False, repr=False)
class AttnLRP(Baseline):
    """LRP with rules for attention: relevance also goes to queries and keys, through softmax.

    Each factor of a product of activations gets half of its relevance. Elementwise functions pass
    it on unchanged, and so do norms, whose standard deviations are held. Linear layers divide it by
    their contributions, exactly: nothing stabilises the denominators. Biases absorb relevance, and
    so does softmax; the map does not sum up to the logit.

    Args:
        model: Takes images (B, C, H, W) and returns logits (B, K); see `dmn.graph.trace`.
        conv_gamma: Strength of the gamma rule in convolutions, such as the embedding of patches;
            >= 0. At 0 it is the epsilon rule, whose maps of transformers are noisy.
        linear_gamma: The same in linear layers, except those which project into or out of
            attention; they have the epsilon rule.
        softmax: "taylor", the rule of AttnLRP; "constant" holds the weights of attention, as CP-LRP
            does, so that queries and keys get no relevance.
        contrast: As for `LRP`.
        absolute: Return magnitudes.

    Raises:
        OptionError: for a gamma below 0 or another softmax.
        UnsupportedError: if the model cannot be written as a graph, or has operations without a
            rule; lists them.
        NotEqualError: on the first call, if the copy is not the same function.

    Source: Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
        Transformers, ICML 2024. "constant" is Ali et al., XAI for Transformers: Better Explanations
        through Conservative Propagation, ICML 2022. The two gammas are among those that the
        authors' own example tries.

    Examples:
        >>> from torchvision.models import VisionTransformer
        >>> net = VisionTransformer(32, 8, 2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
        >>> AttnLRP(net)(torch.rand(2, 3, 32, 32), target=1).shape
        torch.Size([2, 1, 32, 32])
    """

    conv_gamma: float = 0.25
    linear_gamma: float = 0.05
    softmax: SoftmaxRule = "taylor"

    propagates_relevance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("conv_gamma", "linear_gamma"):
            gamma = getattr(self, name)
            number = isinstance(gamma, Real) and not isinstance(gamma, bool)
            if not (number and 0 <= float(gamma) < math.inf):
                raise OptionError(f"{name} is {gamma!r}; give a number from 0 on")
        if self.softmax not in get_args(SoftmaxRule):
            raise OptionError(f"softmax is {self.softmax!r}; give taylor or constant")
        super().__post_init__()

    def prepare(self, example: Tensor | None = None) -> nn.Module:
        """Return a copy whose gradients times activations are relevance."""
        job = f"explain {type(self.model).__name__} by {type(self).__name__}"
        network = trace_attention(self.model, example, job)
        gammas = float(self.conv_gamma), float(self.linear_gamma)
        apply_rules(network, *gammas, self.softmax == "constant", job)
        return network

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Propagate relevance back to images; see `Baseline.attribute`."""
        logits = predict_logits(self.network, x)
        relevance = [output_relevance(logits, target, output) for output in self.outputs]
        starts = [torch.where(logits == 0, 0, start / logits).detach() for start in relevance]
        grads = [torch.autograd.grad(logits, x, start, retain_graph=True)[0] for start in starts]
        return contrast_maps([(x * grad).sum(dim=1, keepdim=True) for grad in grads])
