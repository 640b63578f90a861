"""Maps of the attention that the tokens of an image get, multiplied through the layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn

from dmn.baselines.attention import (
    CONVOLUTIONS,
    find_activations,
    find_attention,
    nearest,
    trace_attention,
)
from dmn.baselines.base import Baseline
from dmn.errors import OptionError, UnsupportedError
from dmn.explain import Against, Target
from dmn.explain.registry import register
from dmn.explain.resize import resize
from dmn.graph import is_call

HeadFusion = Literal["mean", "max", "min"]
_OTHERS = "explain it by AttnLRP, GradCAM, IntegratedGradients or Occlusion"


@dataclass(eq=False, repr=False)
class Rollout(Baseline):
    """Base class of methods that multiply the attention of all layers to one map of the tokens.

    Each layer has to attend from all tokens to all tokens: those of a grid, which a convolution
    makes of the image, after any number of others, such as the class token. The map is the row of
    the token that the head reads; if it reads several, their mean.

    Raises:
        UnsupportedError: if the model cannot be written as a graph or has no attention. When
            called, if a layer attends within windows, over channels or to other tokens than it
            attends from; names it.
    """

    def prepare(self, example: Tensor | None = None) -> nn.Module:
        """Return a copy with a module after the weights of each layer, for hooks."""
        name = type(self.model).__name__
        network = trace_attention(self.model, example, f"explain {name} by {type(self).__name__}")
        self.layers = find_attention(network)
        if not self.layers:
            raise self._refusal(f"explain {name}, which has no attention over tokens")
        activations = find_activations(network)
        convolutions = nearest(
            self.layers[0].before,
            lambda node: activations.intersection(node.all_input_nodes),
            lambda node: is_call(network, node, CONVOLUTIONS),
        )
        if not convolutions:
            raise self._refusal(f"place the tokens of {name}, which no convolution makes")
        self.grid = _readable(network, convolutions[0])
        self.tokens = [_readable(network, layer.before[0]) for layer in self.layers]
        self.weights = [_readable(network, layer.weights) for layer in self.layers]
        network.recompile()
        return network

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return maps (B, 1, H, W); see `Baseline.attribute`."""
        with _outputs(self.network, {self.grid, *self.tokens, *self.weights}) as outputs:
            score = self.scores(x).gather(1, target[:, None]).sum()
        weights = [outputs[path] for path in self.weights]
        for layer, path, weight in zip(self.layers, self.tokens, weights, strict=True):
            if fault := _fault(weight.shape, _count(outputs[path].shape, len(x)), len(x)):
                raise self._refusal(f"explain {layer.name}, which {fault}")
        if len({weight.shape[-1] for weight in weights}) > 1:
            raise self._refusal("follow tokens whose number changes from layer to layer")
        gradients = torch.autograd.grad(score, weights, allow_unused=True, materialize_grads=True)
        by_head = [_by_head(tensor, len(x)) for tensor in (*weights, *gradients)]
        rolled = self.roll(by_head[: len(weights)], by_head[len(weights) :])
        relevance = _rows_read(rolled, by_head[-1])
        grid = outputs[self.grid].shape[2:]
        others = relevance.shape[1] - prod(grid)
        if others < 0:
            raise self._refusal(f"place {relevance.shape[1]} tokens on a grid of {tuple(grid)}")
        return resize(relevance[:, others:].view(len(x), 1, *grid), x.shape[2:])

    def _refusal(self, job: str) -> UnsupportedError:
        return UnsupportedError(f"{type(self).__name__} cannot {job}; {_OTHERS}")

    def roll(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """Return how much each token takes of each token of the image, (B, N, N).

        Args:
            weights: The weights of each layer, (B, heads, N, N).
            gradients: Those of the explained score by the weights.
        """
        raise NotImplementedError


@register("post-hoc", needs_attention=True)
@dataclass(eq=False, repr=False)
class AttentionRollout(Rollout):
    """The weights of attention, averaged over heads and multiplied through all layers.

    In each layer half of what a token holds is taken from the layer's input, past the attention.
    The map is the same for every class: it shows where the network looks, not what for.

    Args:
        head_fusion: How the weights of the heads become one: "mean" as published, "max" or "min".
        discard_ratio: Share of a layer's weights that is set to 0, the smallest ones, from 0 on and
            below 1; 0 as published.

    Raises:
        OptionError: for other values, for contrast, and when called with a rival.
        UnsupportedError: as for GradientAttentionRollout.

    Source: Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3.1. The
        options are those of Gildenblat, vit-explain, 2020.

    Examples:
        >>> from torchvision.models import VisionTransformer
        >>> net = VisionTransformer(32, 8, 2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
        >>> AttentionRollout(net)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """

    head_fusion: HeadFusion = "mean"
    discard_ratio: float = 0.0

    def __post_init__(self) -> None:
        if self.contrast:
            raise OptionError(
                "AttentionRollout is the same for every class, so that no contrast is left; leave "
                "it out, or take GradientAttentionRollout"
            )
        if self.head_fusion not in get_args(HeadFusion):
            raise OptionError(f"head_fusion is {self.head_fusion!r}; give mean, max or min")
        if not 0 <= self.discard_ratio < 1:
            raise OptionError(f"discard_ratio is {self.discard_ratio!r}; give 0 or more, below 1")
        super().__post_init__()

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images (B, C, H, W) by maps (B, 1, H, W), float32; see `Baseline`."""
        if isinstance(target, Against):
            raise OptionError(
                "AttentionRollout is the same for every class, so that nothing is left against a "
                "rival; give one class, or take GradientAttentionRollout"
            )
        return super().__call__(x, target)

    def roll(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """Return the product of the layers' weights; see `Rollout.roll`."""
        rolled = torch.eye(weights[0].shape[-1]).to(weights[0])
        for weight in weights:
            mixed = self._discard(self._fuse(weight)) + torch.eye(weight.shape[-1]).to(weight)
            rolled = mixed / mixed.sum(dim=-1, keepdim=True) @ rolled
        return rolled

    def _fuse(self, weight: Tensor) -> Tensor:
        if self.head_fusion == "mean":
            return weight.mean(dim=1)
        return weight.amax(dim=1) if self.head_fusion == "max" else weight.amin(dim=1)

    def _discard(self, weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        smallest = flat.argsort(dim=1)[:, : int(self.discard_ratio * flat.shape[1])]
        return flat.scatter(1, smallest, 0).view_as(weight)


@register("post-hoc", needs_attention=True)
class GradientAttentionRollout(Rollout):
    """The weights of attention times the logit's gradient by them, added up through all layers.

    In each layer the positive products are averaged over heads, to A, and the relevance R of each
    token for each becomes R + A R. R starts as the identity, which is left out of the map: it would
    give the same to every token that a mean reads. Also known as Grad x Attention Rollout.

    Raises:
        UnsupportedError: if the model cannot be written as a graph or has no attention. When
            called, if a layer attends within windows, over channels or to other tokens than it
            attends from; names it.

    Source: Chefer, Gur & Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and
        Encoder-Decoder Transformers, ICCV 2021, eq. 5 and 6.

    Examples:
        >>> from torchvision.models import VisionTransformer
        >>> net = VisionTransformer(32, 8, 2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
        >>> torch.nn.init.normal_(net.heads.head.weight).shape
        torch.Size([3, 16])
        >>> maps = GradientAttentionRollout(net)(torch.rand(2, 3, 32, 32), target=1)
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([2, 1, 32, 32]), True)
    """

    def roll(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
        """Return the sum of the layers' products; see `Rollout.roll`."""
        identity = torch.eye(weights[0].shape[-1]).to(weights[0])
        rolled = identity
        for weight, gradient in zip(weights, gradients, strict=True):
            rolled = rolled + (gradient * weight).clamp(min=0).mean(dim=1) @ rolled
        return rolled - identity


def _readable(network: fx.GraphModule, node: fx.Node) -> str:
    """Put a module behind a node, which hooks can read; returns its path."""
    path = f"read_{node.name}"
    if not hasattr(network, path):
        network.add_submodule(path, nn.Identity())
        with network.graph.inserting_after(node):
            copy = network.graph.call_module(path, (node,))
        node.replace_all_uses_with(copy, lambda user: user is not copy)
    return path


@contextmanager
def _outputs(network: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield what modules return while the network runs inside the block, by their paths."""
    outputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for path in paths:

            def read(module: nn.Module, args: object, output: Tensor, path: str = path) -> None:
                outputs[path] = output

            hooks.enter_context(network.get_submodule(path).register_forward_hook(read))
        yield outputs


def _fault(weights: torch.Size, tokens: int, images: int) -> str:
    """Return why the weights of a layer are not those of all tokens for all tokens, if so."""
    if weights[-1] != weights[-2]:
        return "attends from other tokens than it attends to"
    if weights[-1] != tokens or weights[0] % images:
        return "attends within windows or over channels"
    return ""


def _count(shape: torch.Size, images: int) -> int:
    """Return the number of tokens of an image; 0 if they are not grouped by images.

    Args:
        shape: Of tokens with their channels last, (B, N, C), (N, B, C) or (B, h, w, C).
        images: Their number, B.
    """
    if shape[0] == images:
        return prod(shape[1:-1])
    return shape[0] if len(shape) == 3 and shape[1] == images else 0


def _by_head(weights: Tensor, images: int) -> Tensor:
    """Return weights (B, heads, N, N), or (B heads, N, N), as (B, heads, N, N)."""
    return weights.reshape(images, -1, *weights.shape[-2:]).detach()


def _rows_read(rolled: Tensor, gradient: Tensor) -> Tensor:
    """Return the mean of the rows of the tokens that the head reads.

    Args:
        rolled: (B, N, N) or (N, N).
        gradient: By the weights of the last layer, (B, heads, N, N). It is 0 in the rows of tokens
            that the head does not read.
    """
    read = (gradient != 0).any(dim=(1, 3))
    read = torch.where(read.any(dim=1, keepdim=True), read, True).to(rolled)
    return (read[:, None] @ rolled).squeeze(1) / read.sum(dim=1, keepdim=True)
